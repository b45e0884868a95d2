"""ImageNet+ pretraining for tools/lazyconfig_train_net.py: ResNet-50, 300 epochs."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import OmegaConf

from d2_ext import (
    ClassificationEvaluator,
    ReinforcedClassifier,
    build_classification_test_loader,
    build_reinforced_train_loader,
)

_EPOCHS, _EPOCH = 300, 1281167 // 1024

# With "BN", each GPU would have its own statistics, and only the first one's would be saved.
model = L(ReinforcedClassifier)(model="resnet50", num_classes=1000, norm="SyncBN")

dataloader = OmegaConf.create()
dataloader.train = L(build_reinforced_train_loader)(
    images="imagenet/train", shards="imagenet-plus", total_batch_size=1024, num_workers=12
)
dataloader.test = L(build_classification_test_loader)(
    images="imagenet/val", shards="${..train.shards}", size=224, num_workers=12
)
dataloader.evaluator = L(ClassificationEvaluator)()

optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer.lr = 0.4
optimizer.nesterov = True

train = model_zoo.get_config("common/train.py").train
train.max_iter = _EPOCHS * _EPOCH
train.amp.enabled = True
train.eval_period = train.checkpointer.period = 10 * _EPOCH

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_length=5 / _EPOCHS,
    warmup_factor=0.01,
)
