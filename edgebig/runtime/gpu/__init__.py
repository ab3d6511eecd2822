"""What the GPU backends share: CUDA behind a thin seam, and the planning that needs no device."""
