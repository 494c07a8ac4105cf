"""`python -m scripts.pictures`: runs the scene of the tests for some minutes, and takes `docs/images/*.png` of it."""

import asyncio
import sys
import tempfile
from pathlib import Path

import rich

from scripts.pictures.panels import Source, page
from testkit.browser import Page, browser
from testkit.demo_traffic import CALLERS, Scene, load, scene
from testkit.running_gateway import ROOT

IMAGES = ROOT / "docs" / "images"
LOAD_S = float(sys.argv[1]) if len(sys.argv) > 1 else 330.0
SAID = "Drawn from the answers of Prometheus to the panels' queries; a gateway in front of demo model servers."


async def main() -> None:
    with tempfile.TemporaryDirectory() as name, scene(Path(name)) as running:
        rich.print(f"{len(CALLERS)} callers are busy for {LOAD_S:.0f} s ...")
        calls = asyncio.create_task(load(running.gateway.url, LOAD_S))
        await asyncio.sleep(LOAD_S - 20)
        await _pages(running)
        for dashboard in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")):
            await _dashboard(running, dashboard, Path(name))
        rich.print(f"{await calls} calls, {len(list(IMAGES.glob('*.png')))} pictures in {IMAGES}")


async def _pages(running: Scene) -> None:
    operators = running.gateway.metrics_url.removesuffix("/metrics") + "/ui"
    async with browser() as tab:
        for name, width, dark in (("ui", 1200, False), ("ui-dark", 1200, True), ("ui-phone", 375, False)):
            await tab.size(width, 860, 1.25)
            await tab.dark(dark)
            await tab.open(operators)
            await tab.until("document.querySelectorAll('#users tr').length > 3")
            await _take(tab, name)
    async with browser() as tab:
        for name, width in (("usage", 1000), ("usage-phone", 375)):
            await tab.size(width, 860, 1.25)
            await tab.open(f"{running.gateway.url}/usage")
            await tab.type("#key", CALLERS[0].key)
            await tab.click("button.main")
            await tab.until("document.querySelector('#who')")
            await _take(tab, name)


async def _dashboard(running: Scene, file: Path, directory: Path) -> None:
    def asked(query: str) -> str:
        return query.replace("$__rate_interval", "30s")

    source = Source(
        now=lambda query: running.now(asked(query)), over=lambda query: running.over(asked(query), LOAD_S - 30, 5)
    )
    drawn = directory / "dashboard.html"
    drawn.write_text(page(file, source, SAID))
    async with browser() as tab:
        await tab.size(1200, 860, 1.25)
        await tab.open(drawn.as_uri())
        await _take(tab, f"dashboard-{file.stem}")


async def _take(tab: Page, name: str) -> None:
    height = await tab.run("document.documentElement.scrollHeight")
    await tab.size(await tab.run("window.innerWidth"), height, 1.25)
    await asyncio.sleep(0.3)
    picture = await tab.picture()
    (IMAGES / f"{name}.png").write_bytes(picture)
    rich.print(f"  {name}.png, {len(picture) / 1024:.0f} KB")


if __name__ == "__main__":
    asyncio.run(main())
