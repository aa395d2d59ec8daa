"""The command line `lora-assets`: one file a command. It shows what `trainer_core.run` does and decides nothing itself.

Nothing here imports torch, pandas or Rich before they are needed: `--help` and a run with nothing to do must be quick.
"""
