"""Tests on NVIDIA GPUs. Their helpers take the device, so that `make test` runs them with a CPU in the GPU's place."""
