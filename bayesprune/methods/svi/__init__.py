"""Our own method: gates learned by variational inference, and structures removed whose gates end at 0.

What is minimised, in nats per example, over θ in [0, 1]^S and weights with a posterior q ("The objective, and why its
minima are at corners" on the method page, whose headings and keys of papers are cited here; `infer.objective` has the
terms):

    L(θ, q) = E_{ξ ~ Bern(θ), M ~ q}[C(ξ, M)] + ( Σ_s θ_s log γ_s + Σ_s d(θ_s) + K(θ, q) ) / N

C is the mean negative log-likelihood. θ_s log γ_s is what is left of the flattening hyper-prior and of the entropy of a
gate when π_s is at its optimum ("The flattening hyper-prior", [N]); d is constant but under a fixed prior, where it is
−H(θ_s) ("A fixed prior instead"). K is λ/2 ‖M‖² for point weights M, and the divergence of Normal ones from their prior
("Gaussian slabs").

- Weights step by any optimiser of torch, on the gradient for gates drawn anew for every batch (`method`).
- Where d is constant L is linear in each θ_s, with slope E[C | ξ_s=1] − E[C | ξ_s=0] + ρ_s: the net cost of the
  structure, positive where it should go. Its price is ρ_s = (log γ_s + ∂K/∂θ_s)/N. So θ ends at 0 or 1, by projected
  steps θ ← Proj_[0,1](θ − η ĝ) in units of ρ ("Projected SGD, in units of the price").
- `schedule`: θ rests in warm-up, follows an estimate ĝ of the slope in sampling (`sampled`), and exact paired
  differences in settling (`exact`), then rests again in fine-tuning ("The phases of a run").
- `penalties`: log γ is constant, or ν N ∂ 2√c/∂θ_s for an expected relative cost c(θ) ("Prices that follow the cost",
  [C]), with the ν of a `CostPrice`, or one that dual ascent (`multiplier`) finds for a `Budget` ("A budget"); what is
  too much of all the same is switched off at the end of settling (`enforcement`).
- `removal`: a structure goes when θ_s is exactly 0 and its net cost positive, several times in a row ("When a structure
  is removed"; [L], section 4), as soon as that pays (`payoff`).
"""

from bayesprune.methods.svi.method import SVI

__all__ = ["SVI"]
