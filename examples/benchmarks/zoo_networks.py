"""The networks of the zoo: torchvision's by constructor, and of timm a small one of every family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

SMALLEST = (
    *("alexnet", "resnet18", "squeezenet1_0", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5"),
    *("shufflenet_v2_x0_5", "regnet_x_400mf", "regnet_y_400mf", "resnet50", "resnext50_32x4d", "googlenet"),
    *("convnext_tiny", "vit_b_16", "swin_t", "efficientnet_b0", "wide_resnet50_2", "inception_v3", "densenet121"),
    *("efficientnet_v2_s", "swin_v2_t", "maxvit_t", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"),
    *("fcn_resnet50", "deeplabv3_resnet50"),
)
"""The smallest of each family of torchvision's networks for classification and segmentation."""
TIMM = (
    *("beit_base_patch16_224", "lambda_resnet50ts", "test_byobnet", "cait_xxs24_224", "coat_tiny", "convit_tiny"),
    *("convmixer_768_32", "test_convnext", "cpubone_nano", "crossvit_tiny_240", "csatv2", "cs3darknet_focus_s"),
    *("cspnext_tiny", "davit_tiny", "deepseek_vit_412m", "deit_tiny_patch16_224", "densenet121", "dla34", "dpn48b"),
    *("edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "test_efficientnet", "efficientvim_m1"),
    *("efficientvit_b0", "efficientvit_m0", "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0", "fastvit_t8"),
    *("focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m_enc", "ghostnet_050", "hardcorenas_b", "hgnetv2_b0"),
    *("hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small", "iformer_t", "inception_next_atto"),
    *("inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2_small", "levit_128", "lowformer_b0"),
    *("test_mambaout", "test_coatnet", "poolformer_s12", "gmlp_ti16_224", "mobilenetv3_small_050"),
    *("mobilenetv5_base", "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_siglip", "nasnetalarge"),
    *("nest_tiny", "nextvit_small", "test_nfnet", "pit_ti_224", "pnasnet5large", "pvt_v2_b0", "qwen3_vit_88m"),
    *("rdnet_tiny", "regnetx_004_tv", "repghostnet_050", "repvit_m1", "res2next50", "resnest26d", "test_resnet"),
    *("resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18", "sequencer2d_s", "shvit_s1", "skresnet18"),
    *("starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
    *("swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11"),
    *("visformer_tiny", "test_vit", "vit_tiny_r_s16_p8_224", "test_vit_relpos", "samvit_base_patch16_224"),
    *("vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p"),
    *("xcit_nano_12_p8_224"),
)
"""Small members of all families of timm 1.0.31, in the order of its modules."""
GIANTS = "vit_h_14", "regnet_y_128gf"
"""Networks of torchvision's of more than 600 million parameters, taken with two blocks, or two a stage."""
TIMM_PREFIX = "timm:"
SHALLOW: tuple[dict[str, Any], ...] = (
    *({"depths": (1, 1, 1, 1)}, {"depths": (1, 1, 1)}, {"depth": 2}, {"layers": (1, 1, 1, 1)}, {"num_blocks": 2}),
    {},
)
"""How the depth of one of timm's networks is cut, by the first of these that its constructor takes."""
WHOLE = ("gemma4_vit_167m_enc",)
"""Those of timm's whose depth is not cut: its table of positions, read as a product, would outweigh two blocks."""
SIDES = {"inception_v3": 128, "maxvit_t": 224}
SIDE = 64
SIDES_TRIED = 64, 96, 128, 160, 192, 224, 256
CLASSES = 10


def every_name(library: str) -> list[str]:
    """The names of the networks of a library.

    Args:
        library: ``"torchvision"``, for classification and segmentation, or ``"timm"``, one of each family.
    """
    if library == "timm":
        return [TIMM_PREFIX + name for name in TIMM]
    from torchvision import models

    return [*models.list_models(module=models), *models.list_models(module=models.segmentation)]


def network(name: str) -> tuple[nn.Module, int]:
    """The network of a name, float64, in eval mode, with weights unlike those that none was trained to, and a side.

    Args:
        name: As in ``torchvision.models.list_models``, or ``timm:`` and as in ``timm.list_models``.

    Returns:
        The network, and the side of the images that it takes.
    """
    torch.manual_seed(0)
    found = _timm(name.removeprefix(TIMM_PREFIX)) if name.startswith(TIMM_PREFIX) else _torchvision(name)
    model, side = found[0].double().eval(), found[1]
    _livelier(model)
    return model, side


def _torchvision(name: str) -> tuple[nn.Module, int]:
    from torchvision import models

    given: dict[str, Any] = {"weights": None, "num_classes": CLASSES}
    if name in models.list_models(module=models.segmentation):
        given["weights_backbone"] = None
    if name.startswith("vit_"):
        given["image_size"] = SIDE
    if name in ("googlenet", "inception_v3"):
        given["init_weights"] = False
    model = _giant(name) if name in GIANTS else models.get_model(name, **given)
    return model, SIDES.get(name, getattr(model, "image_size", SIDE))


def _giant(name: str) -> nn.Module:
    """One of torchvision's `GIANTS`, with fewer blocks.

    Args:
        name: As in ``torchvision.models.list_models``.
    """
    from torchvision.models import VisionTransformer
    from torchvision.models.regnet import BlockParams, RegNet

    if name == "vit_h_14":
        return VisionTransformer(SIDE - SIDE % 14, 14, 2, 16, 1280, 5120, num_classes=CLASSES)
    blocks = BlockParams.from_init_params(27, w_0=456, w_a=160.83, w_m=2.52, group_width=264, se_ratio=0.25)
    blocks.depths = [min(depth, 2) for depth in blocks.depths]
    return RegNet(blocks, num_classes=CLASSES)


def _timm(name: str) -> tuple[nn.Module, int]:
    """A shallow network of timm, and the smallest side of images that it takes."""
    import timm

    for given, side in _tried(name):
        try:
            model = timm.create_model(name, num_classes=CLASSES, **given).eval()
            with torch.no_grad():
                model(torch.zeros(1, 3, side, side))
            return model, side
        except Exception as error:  # of whatever kind: the next one is tried
            stopped = error
    raise stopped


def _tried(name: str) -> Iterator[tuple[dict[str, Any], int]]:
    """What a network of timm may be built with, and the side of images; its test networks are shallow as they are."""
    for depth in SHALLOW[-1:] if name.startswith("test_") or name in WHOLE else SHALLOW:
        for sized in (True, False):
            for side in SIDES_TRIED:
                yield {**depth, **({"img_size": side} if sized else {})}, side


def _livelier(model: nn.Module) -> None:
    """Statistics and scales as after training: none is 0 or 1, so that a wrong cut shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for name, p in model.named_parameters():
        if "layer_scale" in name or not bool(p.any()):
            nn.init.uniform_(p, 0.5, 1.5)
