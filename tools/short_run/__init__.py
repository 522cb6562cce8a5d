"""The run on a machine with a GPU: what it does, in processes of their own, and what it writes.

`tools/gpu_short.py` is its command. `plan` says which steps there are, `parent` runs them, `child` is the
process of a step, and the other modules are what the steps do. Nothing that the parent imports imports torch.
"""
