"""What a run is made of: the options as they were given, and as they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bayesprune.checked import real, whole
from bayesprune.cli.network import ANY_IMAGES, network_like
from bayesprune.cli.options import defaults, name_of, option
from bayesprune.cli.own import is_own
from bayesprune.conversion.zoos import is_foreign
from bayesprune.data.sources import named_data
from bayesprune.errors import ConfigError
from bayesprune.infer import get_estimator
from bayesprune.infer.posterior import WEIGHTS
from bayesprune.methods.svi.budget import Budget
from bayesprune.methods.svi.recipes import Recipe, recommended
from bayesprune.networks import NETWORKS
from bayesprune.optim import OPTIMIZERS
from bayesprune.training.devices import PRECISIONS, check_device

CROP_FLIP, NO_AUGMENTATION, AUTO = "crop-flip", "none", "auto"
COLOUR = ("cifar10", "cifar100", "imagefolder:")
"""How the names of data sets of colour images begin."""
MOST = 2**31 - 1
"""The largest count that an option may be."""
LARGEST_SEED = 2**63 - 1
RECIPE = "from the network's recipe"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The options of a run as they are used; `resolve` makes them of those that were given to `bayesprune train`."""

    net: str = option(
        f"Network: {', '.join(NETWORKS)}, resmlpDEPTH or resnetDEPTH (for example resnet56), torchvision:NAME, "
        "timm:NAME, or your own: MODULE:NAME or FILE.py:NAME.",
        "lenet300",
    )
    weights: str | None = option(
        "File of trained weights for torchvision:NAME or timm:NAME: safetensors or a state_dict.",
        shown="none",
        before=None,
    )
    weights_sha256: str | None = None
    num_classes: int | None = option(
        "Outputs of the network, where trained weights have more than the data have classes.",
        shown="classes of the data",
        before=None,
    )
    freeze_weights: bool = option("Leave trained weights as they are, and learn gates alone.", False, before=False)
    freeze_statistics: bool = option("Let normalisations keep their running statistics.", False, before=False)
    data: str = option("digits, mnist, fashion-mnist, cifar10, cifar100 or imagefolder:PATH.", "digits")
    epochs: int = option("Length of the run.", 100)
    seed: int = option("Seed of everything random.", 0)
    budget: str | None = option(
        "What may be left of the network: macs=0.4, params=FRACTION or latency=FRACTION.", shown="none", before=None
    )
    price: float | None = option(
        "Worth of the network's cost instead, nats per example; more prunes more.", shown=RECIPE
    )
    log_gamma: float | None = option(
        "One price for all structures instead, nats for the whole data set.", shown="not used"
    )
    batch_size: int = option("Examples a step, of all processes together.", shown=RECIPE)
    lr: float = option("Peak learning rate of the weights.", shown=RECIPE)
    layer_decay: float = option(
        "Factor on the learning rate of a layer for every layer behind it, up to 1.", 1.0, before=1.0
    )
    optimizer: str = option("Of the weights: adam, or sgd with Nesterov momentum 0.9.", shown=RECIPE, before="adam")
    weight_decay: float | None = option(
        "Precision of the slab over the number of examples.", shown=RECIPE, before=None
    )  # None: 1/N
    label_smoothing: float = option("Probability that a label is taken to be random.", shown=RECIPE)
    augment: str = option(
        "crop-flip, none, or auto: crop-flip for colour images if the recipe has it.", AUTO, before=NO_AUGMENTATION
    )
    every: int = option("Steps of the weights for one of the gates.", shown=RECIPE, before=4)
    estimator: str = option("Estimator of the gates' gradient.", "auto")
    slab: str = option("Posterior of every weight: point, or normal, to predict with its uncertainty.", "point")
    temperature: float = option(
        "How much the prior of --slab normal weights counts; 1: the ELBO itself.", shown=RECIPE, before=1.0
    )
    device: str = option("cpu, cuda, cuda:NUMBER, mps, or auto: a GPU if the network is faster there.", AUTO)
    precision: str = option("float32, or bf16 for matrix products and convolutions.", "float32", before="float32")
    compile: bool = option("Compile branches with torch.compile.", False, before=False)
    strategy: str = option(
        "Under torchrun: auto, every process holds the network, or fsdp, they divide it.", "auto", before="auto"
    )
    limit: int | None = option("Use so many training examples.", shown="all")
    data_dir: str = option("Folder of torchvision's data sets.", "data")

    def check(self) -> None:
        """Refuse what can be seen to be wrong without reading data.

        Raises:
            ConfigError: for an option that cannot work, or a device that is not there.
        """
        self.check_values()
        check_device(self.device)

    def check_values(self) -> None:
        """Refuse what would be wrong on any machine.

        Raises:
            ConfigError: for an option that cannot work.
        """
        for name in ("epochs", "batch_size", "every"):
            whole(name_of(name), getattr(self, name), 1, MOST)
        whole("--seed", self.seed, 0, LARGEST_SEED, hint="it has 63 bits")
        real("--lr", self.lr, 0)
        real("--layer-decay", self.layer_decay, 0, 1, "(]")
        if self.num_classes is not None:
            whole("--num-classes", self.num_classes, 2, MOST)
        if self.weight_decay is not None:
            real("--weight-decay", self.weight_decay, 0, ends="[)")
        real("--temperature", self.temperature, 0, hint="1 is the ELBO itself")
        if self.temperature != 1 and self.slab == "point":
            raise ConfigError(f"--temperature {self.temperature} needs the weights' posterior: give --slab normal too")
        real("--label-smoothing", self.label_smoothing, 0, 1, "[)")
        self._check_prices()
        if self.weights is not None and not is_foreign(self.net):
            use = "load them where it is made" if is_own(self.net) else "use --net torchvision:NAME or timm:NAME"
            raise ConfigError(f"--weights {self.weights}: {self.net} takes none; {use}")
        if self.freeze_weights and self.weights is None and not is_own(self.net):
            raise ConfigError(
                "--freeze-weights: without --weights they would stay random; give a file, or leave it out"
            )
        choices = {"optimizer": OPTIMIZERS, "augment": (CROP_FLIP, NO_AUGMENTATION), "slab": WEIGHTS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name_of(name)} {getattr(self, name)}: unknown; known are {', '.join(known)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"--precision {self.precision}: unknown; known are {', '.join(PRECISIONS)}")
        get_estimator(self.estimator)

    def _check_prices(self) -> None:
        for name, unit in (("price", "per example"), ("log_gamma", "for the whole data set")):
            if getattr(self, name) is not None:
                hint = f"it is in nats {unit}, and larger values prune more"
                real(name_of(name), getattr(self, name), 0, hint=hint)
        given = [name_of(name) for name in ("budget", "price", "log_gamma") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are two ways to price structures; give one of them")
        self.parsed_budget()

    def parsed_budget(self) -> Budget | None:
        """The budget.

        Raises:
            ConfigError: if it cannot be read.
        """
        return None if self.budget is None else Budget.parse(self.budget)

    @property
    def default_folder(self) -> Path:
        """``runs/NET-DATA-seedS``, the data set's path reduced to its last part, without colons."""
        return Path("runs") / f"{short_name(self.net)}-{short_name(self.data)}-seed{self.seed}"


def resolve(given: Mapping[str, Any]) -> RunConfig:
    """The options to be used, when ``given`` were given (``None`` counts as not given).

    What is missing comes from the defaults and from what is `recommended` for the network. ``auto`` for the device is
    CUDA where there is one and the recipe says that it is faster; for the augmentation, crops and flips of colour
    images where the recipe has it.

    Args:
        given: Values by name of the field.

    Raises:
        BayesPruneError: for an unknown network, or data that a network of one's own is to be made for and that are
            not there.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    options = defaults(RunConfig) | chosen
    shape, outputs = _like(options)
    recipe = _recipe_for(options["net"], options["slab"], shape, outputs)
    for name in ("batch_size", "lr", "optimizer", "weight_decay", "label_smoothing", "every", "temperature"):
        options[name] = chosen.get(name, getattr(recipe, name))
    if options["log_gamma"] is None and options["budget"] is None:
        options["price"] = chosen.get("price", recipe.price)
    if options["device"] == AUTO:
        options["device"] = "cuda" if recipe.accelerate and torch.cuda.is_available() else "cpu"
    if options["augment"] == AUTO:
        varied = recipe.augment and options["data"].startswith(COLOUR)
        options["augment"] = CROP_FLIP if varied else NO_AUGMENTATION
    return RunConfig(**options)


def _like(options: Mapping[str, Any]) -> tuple[tuple[int, ...], int]:
    """Shape of the examples and number of outputs for which a recipe is looked up: the data's for one's own network.

    Args:
        options: By name of the field.
    """
    if not is_own(options["net"]):
        return ANY_IMAGES, 10
    splits = named_data("--data", options["data"], options["data_dir"], options["limit"])
    return splits.input_shape, options["num_classes"] or splits.num_classes


@cache
def _recipe_for(net: str, slab: str, input_shape: tuple[int, ...], num_classes: int) -> Recipe:
    """What is recommended for the network of a name, built for that; torch's random numbers go on as before.

    Args:
        net: The name.
        slab: Posterior of the weights.
        input_shape: Shape of one example.
        num_classes: Number of outputs.
    """
    posterior = "normal" if slab == "normal" else "point"
    with torch.random.fork_rng(devices=[]):
        return recommended(network_like(net, input_shape, num_classes), weights=posterior)


def short_name(name: str) -> str:
    """The name of a network or data set as part of that of a file: a path is reduced to its last part."""
    kind, _, path = name.partition(":")
    return f"{Path(kind).name.removesuffix('.py')}-{Path(path).name}" if path else kind
