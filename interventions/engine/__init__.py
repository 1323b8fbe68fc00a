"""How interventions run: forward passes inside nnsight contexts, packing, clean and corrupted runs, windows."""
