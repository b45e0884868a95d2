"""The same for 100 epochs at many scales, 64 images in a batch, as in Faghri et al., 2023."""

_base_ = "mask-rcnn_cvnets-r50_fpn_1x_coco.py"

model = dict(backbone=dict(frozen_stages=-1, norm_eval=False))

# Longest side 512 to 1280 pixels, in steps of 32.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize",
        scales=[(side, side) for side in range(512, 1281, 32)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
# On 8 GPUs.
train_dataloader = dict(batch_size=8, num_workers=8, dataset=dict(pipeline=train_pipeline))

# Statistics over all GPUs.
sync_bn = "torch"

max_epochs = 100
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=0.1, momentum=0.9, weight_decay=4e-5))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.067, by_epoch=False, begin=0, end=500),
    dict(
        type="MultiStepLR",
        begin=0,
        end=max_epochs,
        by_epoch=True,
        # Of MMDetection's recipe for 100 epochs.
        milestones=[88, 96],
        gamma=0.1,
    ),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=64)
