"""Prune a network of your own: any `torch.nn.Module` whose forward pass can be traced.

    python examples/own_network.py

A small convolutional network with batch normalisation, a skip connection and a forward pass of its own. Gates go
*after* an activation with f(0) = 0: before a normalisation a gate is refused, because its zeros would come out as that
layer's bias. Structures are priced at what they are expected to save in parameters and multiply-adds (`CostPrice`), and
labels are smoothed so that these prices keep their weight to the end of training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.errors import GateError
from bayesprune.infer import Categorical
from bayesprune.pruning import CostPrice


class DigitNet(nn.Module):
    """Two convolutions and a residual branch, with gates on their maps and on the branch.

    Shape:
        input ``(B, 1, 8, 8)``, output ``(B, 10)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1, self.gate1 = (
            nn.Conv2d(1, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            layers.Gate(24),
        )
        self.second, self.norm2 = nn.Conv2d(24, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.third, self.norm3, self.gate3 = (
            nn.Conv2d(32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            layers.Gate(32),
        )
        self.fourth, self.norm4 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.branch = layers.Gate(1, per_batch=True)  # one gate for the whole branch
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.gate1(F.relu(self.norm1(self.first(x))))
        x = F.max_pool2d(F.relu(self.norm2(self.second(x))), 2)
        inner = self.gate3(F.relu(self.norm3(self.third(x))))
        x = x + self.branch(self.norm4(self.fourth(inner)))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(F.relu(x), 1), 1))


def main() -> None:
    """Train, prune, check that nothing but the size has changed."""
    torch.manual_seed(0)
    digits = bp.data.load("digits")
    train, test = bp.data.loaders(digits, batch_size=64, seed=0)
    x, y = digits.test[:]

    try:
        bp.BayesianNet(nn.Sequential(layers.Conv2d(1, 8, 3, gate="unit"), nn.BatchNorm2d(8), nn.Flatten()), num_data=1)
    except GateError as refusal:
        print(f"refused, as it should be: {refusal}\n")

    bnn = bp.BayesianNet(DigitNet(), likelihood=Categorical(label_smoothing=0.05), num_data=len(digits.train))
    before = bp.cost(bnn, example_input=x)
    history = bp.fit(
        bnn, train, epochs=16, val_loader=test, settings=bp.recommended(bnn).settings(price=CostPrice(nu=0.4))
    )

    small = bp.compact(bnn.eval())
    after = bp.cost(small, example_input=x)
    accuracy = float((small(x).argmax(1) == y).float().mean())
    print(f"parameters    {before.params:9,} -> {after.params:9,}")
    print(f"multiply-adds {before.macs:9,} -> {after.macs:9,}")
    print("gates left   ", {name: int((theta > 0.5).sum()) for name, theta in bnn.gate_probs().items()})
    print(f"test accuracy {accuracy:.2%}, {len(history.removals)} structures removed while training")

    assert torch.allclose(bnn.net(x), small(x), atol=1e-4), "removal must not change an output"
    assert accuracy > 0.96
    assert after.params < 0.7 * before.params
    assert not any(isinstance(module, layers.Gate) for module in small.modules()), "what is left is plain PyTorch"


if __name__ == "__main__":
    main()
