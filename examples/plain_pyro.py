"""Use a gated network as an ordinary Pyro model, without `fit`.

    python examples/plain_pyro.py

`BayesianNet.model` and `.guide` are Pyro callables, so Pyro's own tools work on them: here SVI, poutine and Predictive,
with `GateELBO` as loss (the hyper-prior eliminated in closed form) and `ProjectedSGD` as optimiser (θ is projected to
[0, 1], so it can reach both ends). Nothing is removed while training; `compact` removes what the gates have decided.
"""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn

import bayesprune as bp
from bayesprune import layers


def main() -> None:
    """Train with SVI, then look at model and posterior with Pyro's tools."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    digits = bp.data.load("digits")
    train, _ = bp.data.loaders(digits, batch_size=64, seed=0)
    net = nn.Sequential(nn.Flatten(), layers.Linear(64, 60, gate="unit"), nn.ReLU(), nn.Linear(60, 10))
    bnn = bp.BayesianNet(net, num_data=len(digits.train), prior=bp.distributions.FlatteningPrior(8.0))
    x, y = digits.test[:]

    # By its price alone θ moves lr · ρ a step, ρ = log γ / N: this lr lets the price take it 1 to 0 `travel` times.
    epochs, travel = 60, 5.0
    price = 8.0 / len(digits.train)
    optimizer = bp.optim.ProjectedSGD({"lr": travel / (price * epochs * len(train))}, weights_args={"lr": 3e-3})
    svi = SVI(bnn.model, bnn.guide, optimizer, loss=bp.infer.GateELBO())
    for epoch in range(epochs):
        bnn.train()
        loss = sum(svi.step(xb, yb) for xb, yb in train) / len(train)
        if epoch % 10 == 9:
            units = float(bnn.theta.detach().sum())
            print(f"epoch {epoch + 1:3}  negative ELBO {loss:.4f} nats per example  expected units {units:.1f}")
    bnn.eval()

    # Pyro's own ELBO is another estimate of the same number: it draws π's penalty where GateELBO has it in closed form.
    with torch.no_grad():
        ours = bp.infer.GateELBO(num_particles=20).loss(bnn.model, bnn.guide, x, y)
        pyros = Trace_ELBO(num_particles=20).loss(bnn.model, bnn.guide, x, y)
    print(f"negative ELBO on the test split: GateELBO {ours:.4f}, Trace_ELBO {pyros:.4f} nats per example")

    sites = poutine.trace(bnn.model).get_trace(x[:2]).stochastic_nodes
    print("sample sites:", ", ".join(sites))
    draws = Predictive(bnn.model, guide=bnn.guide, num_samples=20)(x)["obs"]  # labels, shape (20, 360)
    agreement = float((draws == y).float().mean())
    accuracy = float((bnn.predict(x).mean.argmax(1) == y).float().mean())
    small = bp.compact(bnn)
    left = int((bnn.theta > 0.5).sum())
    print(f"posterior predictive: {accuracy:.2%} right by its mean, {agreement:.2%} of drawn labels right")
    print(f"units: 60 -> {left}")

    assert {"inclusion", "gates", "obs"} <= set(sites)
    assert abs(ours - pyros) < 0.02
    assert accuracy > 0.95 and agreement > 0.9
    assert left < 40
    assert torch.allclose(bnn.net(x), small(x), atol=1e-5)


if __name__ == "__main__":
    main()
