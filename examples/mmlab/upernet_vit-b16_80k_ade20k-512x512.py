"""UPerNet with ml-dr's published ViT-B/16; AdamW and schedule are those of MMSegmentation's ViT."""

# By a path: MMEngine's fork does not find "mmseg::..." under the name of MMSegmentation's fork.
_base_ = (
    f"{__import__('mmseg').__path__[0]}/.mim/configs/vit/"
    "vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py"
)
custom_imports = dict(imports=["mmlab_ext"])

# Change this line to use other weights, such as ImageNet's.
checkpoint = "imagenet-plus://checkpoints/cvnets_vit_base_imagenet_plus.pt?arch=vit_base"

model = dict(
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type="TimmFeatures",
        model="cvnets_vit_base_patch16_224",
        out_indices=(2, 5, 8, 11),
    ),
)
default_hooks = dict(backbone=dict(type="ReinforcedBackboneHook", checkpoint=checkpoint))
