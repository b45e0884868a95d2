"""Mask R-CNN with ml-dr's published ResNet-50: 100 epochs, many scales, averaged weights.

ml-dr published no configuration of its detectors. The numbers are those of the nearest one of the
same authors, projects/range_augment/detection/maskrcnn_resnet_50.yaml of apple/corenet; a comment
says where something differs.
"""

_base_ = "mask-rcnn_cvnets-r50_fpn_1x_coco.py"

# Nothing is frozen, and batch normalisation is synchronised.
model = dict(backbone=dict(frozen_stages=-1, norm_eval=False))
sync_bn = "torch"

# 32 images per batch, on 8 GPUs. Unlike apple/corenet's, batches of small images are not larger,
# and the images of a batch differ in size. The ten sizes are apple/corenet's.
sides = (512, 608, 672, 768, 864, 928, 1024, 1120, 1184, 1280)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize",
        scales=[(side, side) for side in sides],
        keep_ratio=False,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=False),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(batch_size=4, num_workers=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

max_epochs = 100
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(lr=0.1, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(
        # There, normalisation in the backbone does not decay either; one key cannot say both here.
        custom_keys={"backbone": dict(lr_mult=0.1)},
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
    ),
)
param_scheduler = [
    # From 0.001 to 0.1.
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(
        type="MultiStepLR",
        begin=0,
        end=max_epochs,
        by_epoch=True,
        milestones=[60, 84],
        gamma=0.1,
    ),
]
# Left out: the augmentation that is learned there (RangeAugment).
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=2),
    ema=dict(type="EMAHook", momentum=5e-4, update_buffers=True),
)
auto_scale_lr = dict(base_batch_size=32)
