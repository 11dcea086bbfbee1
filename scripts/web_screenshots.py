"""Writes docs/formats/web-*.webp: the page of an exported folder, light and dark, on a desktop and on a phone.

python scripts/web_screenshots.py artifacts/mobilenetv1_cifar10_int8.web
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import chromium, served  # noqa: E402

PICTURES = [ROOT / "examples" / name for name in ("cat.png", "truck.jpg", "airplane.webp")]
SIZES = {"desktop": (960, 800, PICTURES), "phone": (390, 800, PICTURES[:1])}


def main(folder: Path) -> None:
    with served(folder) as address, chromium() as browser:
        for device, (width, height, pictures) in SIZES.items():
            for scheme in ("light", "dark"):
                size = {"width": width, "height": height}
                page = browser.new_page(viewport=size, color_scheme=scheme)
                page.goto(address)
                page.wait_for_selector("#status:empty", state="attached")
                for _ in range(3):  # the times are those of an engine that has warmed up
                    page.set_input_files("#files", pictures)
                    page.wait_for_function(
                        f"() => document.querySelectorAll('#list li').length % {len(pictures)} === 0"
                    )
                    page.wait_for_timeout(500)
                shot = Image.open(io.BytesIO(page.screenshot(full_page=True)))
                shot.convert("RGB").save(
                    ROOT / "docs" / "formats" / f"web-{device}-{scheme}.webp", quality=80, method=6
                )
                page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
