"""The networks that make images, as PyTorch modules with whatever weights: only their time matters.

Shapes of tensors: text and tokens are (batch, length, width), pictures and latents (batch, channels,
height, width).
"""
