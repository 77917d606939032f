"""The main job with nothing but the installed wheel; run by .ci/wheel-smoke, not by pytest."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

N_GOOD = 12
EDGE_UAD = str(Path(sys.executable).with_name("edge-uad"))


def run(*arguments: str) -> str:
    done = subprocess.run([EDGE_UAD, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"edge-uad {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def good_part(rng: np.random.Generator) -> np.ndarray:
    """A bright disc on grey, with the noise of a camera."""
    y, x = np.mgrid[:200, :200]
    disc = np.hypot(x - 100, y - 100) < 70
    return np.clip(np.where(disc, 200, 60)[:, :, None] + rng.normal(0, 6, (200, 200, 3)), 0, 255).astype(np.uint8)


def main() -> None:
    for absent in ("torch", "faiss", "sklearn", "matplotlib", "jinja2"):
        if importlib.util.find_spec(absent) is not None:
            sys.exit(f"{absent} is installed, the base install must do without it")
    rng = np.random.default_rng(0)
    Path("good").mkdir()
    for index in range(N_GOOD):
        Image.fromarray(good_part(rng)).save(f"good/{index}.png")
    scratched = good_part(rng)
    scratched[60:140, 95:105] = (20, 20, 90)
    Image.fromarray(scratched).save("scratched.png")

    # a user's own modules of the same names must not come in the way
    Path("export.py").write_text("raise SystemExit('the export.py of the working directory was imported')\n")
    Path("bank_tools.py").write_text("raise SystemExit('the bank_tools.py of the working directory was imported')\n")

    print(run("--version").strip())
    run("build-bank", "good", "--out", "bank.safetensors")  # fetches the weights and writes the model file
    lines = run("inspect", "good/0.png", "scratched.png", "--bank", "bank.safetensors", "--json").splitlines()
    good, bad = (json.loads(line) for line in lines)
    if bad["decision"] != "anomalous" or good["decision"] != "normal":
        sys.exit(f"the scratched part is {bad['decision']}, the good one {good['decision']}")
    bench = json.loads(run("bench", "--bank", "bank.safetensors", "--frames", "2", "--no-settings", "--json"))
    if bench["line"]["line_hz"] <= 0:
        sys.exit(f"the bench's daemon judged {bench['line']['line_hz']} frames/s")


if __name__ == "__main__":
    main()
