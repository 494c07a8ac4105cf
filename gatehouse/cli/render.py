"""`gatehouse render`: Envoy's configuration as files, for whoever runs Envoy himself."""

from pathlib import Path
from typing import Annotated

import typer

from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, loaded_or_exit, out, print_json
from gatehouse.envoy import render
from gatehouse.proxy.binary import write
from gatehouse.run_dir import DEFAULT_RUN_DIR, RunDir


def render_files(
    directory: Annotated[Path, typer.Option("--out", help="Where to write the files.")],
    file: Annotated[Path | None, typer.Argument(help="The configuration file (or -c).")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    run_dir: Annotated[Path, typer.Option(help="Where the services' sockets will be.")] = DEFAULT_RUN_DIR,
    access_log: Annotated[str, typer.Option(help="Envoy's JSON log of requests.")] = "logs/envoy_access.log",
    as_json: AsJson = False,
) -> None:
    """Write Envoy's configuration. Start Envoy with envoy.yaml; it watches the other two files in RUN_DIR/envoy."""
    loaded = loaded_or_exit(file or config, as_json=as_json)
    directory.mkdir(parents=True, exist_ok=True)
    files = render(loaded.config, RunDir(run_dir), access_log).files()
    for name, document in files.items():
        write(document, directory / name)
    written = [str(directory / name) for name in files]
    if as_json:
        print_json({"files": written})
    else:
        out.print("\n".join(written), markup=False)
