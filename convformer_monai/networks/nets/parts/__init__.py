"""Parts that several nets share, or that are an idea of their own: backbones, transformer branch, fusion, windows."""
