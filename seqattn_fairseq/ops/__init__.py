"""Pure tensor functions, one file per mechanism."""
