"""The training loop and what it stands on: loss, optimizer, checkpoints, metrics, stop signals.

Trains whatever has requires_grad; which parameters those are is decided and proved elsewhere (freeze).
"""
