"""`gatehouse keys`: creates, lists, rotates and revokes keys."""

import typer

from gatehouse.cli.keys import creating, hashing, listing, revoking, rotating, transfer

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke API keys.")

app.command("create")(creating.create)
app.command("list")(listing.list_)
app.command("show")(listing.show)
app.command("rotate")(rotating.rotate)
app.command("revoke")(revoking.revoke)
app.command("hash")(hashing.hash_)
app.command("import")(transfer.import_)
app.command("export")(transfer.export)
