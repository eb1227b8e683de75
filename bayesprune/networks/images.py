"""What networks for images share: the check of their inputs, convolution with normalisation, the initial weights."""

from __future__ import annotations

from torch import nn

from bayesprune.errors import ConfigError


def check_images(where: str, input_shape: tuple[int, ...], smallest: int, advice: str) -> None:
    """Make sure that the inputs are images of at least ``smallest`` x ``smallest``.

    Args:
        where: The network, for messages.
        input_shape: Shape of one example.
        smallest: Least height and width.
        advice: What to do instead.

    Raises:
        ConfigError: if they are not; the message ends in ``advice``.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < smallest:
        raise ConfigError(
            f"{where}: expected images (channels, height, width) of at least {smallest}x{smallest}, got "
            f"{tuple(input_shape)}; {advice}"
        )


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size of maps, but for its stride, and the normalisation behind it.

    Args:
        inputs: Channels before.
        outputs: Channels behind.
        kernel: Height and width of the kernel.
        stride: Stride of the convolution.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def initialise(net: nn.Module) -> None:
    """Draw the weights of all convolutions as He et al. (2015) do: normal, variance 2 / (outputs times kernel)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
