"""The codebook lookup: tiles of products with their sizes, and the exact choice between near codewords."""
