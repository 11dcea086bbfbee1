"""Post-training int8: ranges, integer grids and rounded weights, decided once and handed to every format.

Activations are uint8 with one scale and zero point per tensor, weights int8 with one scale per output channel and
zero point 0, biases int32 at scale ``input scale * weight scale`` (arXiv 1712.05877, section 2; arXiv 1806.08342).

``grids`` says what integers stand for, ``ranges`` where activations end, ``rescaling`` what is folded and equalised
before, ``rounding`` which integers the weights become, ``quantizer`` how it goes together, ``sensitivity`` what it
costs.
"""

from mnv1deploy.quantization.grids import INPUT, Grid, Weights
from mnv1deploy.quantization.layers import layer_output, parameters_of
from mnv1deploy.quantization.quantizer import DEFAULT, Quantization, Scheme, quantize
from mnv1deploy.quantization.ranges import METHODS, Method
from mnv1deploy.quantization.rescaling import fold_normalization
from mnv1deploy.quantization.rounding import PAIR

__all__ = [
    "DEFAULT",
    "INPUT",
    "METHODS",
    "PAIR",
    "Grid",
    "Method",
    "Quantization",
    "Scheme",
    "Weights",
    "fold_normalization",
    "layer_output",
    "parameters_of",
    "quantize",
]
