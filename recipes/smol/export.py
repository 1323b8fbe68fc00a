"""Write what was trained into the package: `python -m recipes.smol.export --out DIR [--seed 0] [--to FILE]`."""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from interventions.files import write_atomically
from interventions.models.pretrained import ADAPTER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of recipes.smol.train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=ADAPTER, help="the file to write (default: that of the package)")
    args = parser.parse_args()
    state = torch.load(args.out / f"tune-{args.seed}.pt", weights_only=True)
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in state["trained"].items()}

    def write(path: Path) -> None:
        save_file(tensors, path, metadata={"steps": str(state["done"]), "seed": str(args.seed)})
        path.chmod(0o644)  # safetensors writes for its owner alone

    write_atomically(args.to, write)
    print(f"{args.to}: {args.to.stat().st_size / 1e6:.1f} MB after {state['done']} steps")


if __name__ == "__main__":
    main()
