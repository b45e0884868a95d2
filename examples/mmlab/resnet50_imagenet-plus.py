"""ResNet-50 on ImageNet+ with MMEngine alone: 1024 images in a batch, on 4 GPUs."""

custom_imports = dict(imports=["mmlab_ext"])
default_scope = "mmengine"

images = "data/imagenet"
shards = "data/imagenet-plus"
max_epochs = 300

model = dict(
    type="TimmClassifier",
    model="resnet50",
    num_classes=1000,
    loss=dict(type="KDLoss"),
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], channels_last=True
    ),
)
train_dataloader = dict(
    batch_size=256,
    num_workers=12,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="ReinforcedDataset", images=f"{images}/train", shards=shards),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ImageFolder", root=f"{images}/val", size=224, crop_pct=0.875),
)
val_evaluator = [
    dict(type="TopKAccuracy", topk=(1, 5)),
    dict(type="ExpectedCalibrationError"),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(type="SGD", lr=0.4, momentum=0.9, nesterov=True, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, end=5, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        begin=5,
        end=max_epochs,
        T_max=max_epochs - 5,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(
    reinforcement=dict(type="ReinforcementHook"),
    checkpoint=dict(
        type="CheckpointHook", interval=10, max_keep_ckpts=2, save_best="accuracy/top1"
    ),
    logger=dict(type="LoggerHook", interval=100),
)
env_cfg = dict(cudnn_benchmark=True)
randomness = dict(seed=0)
