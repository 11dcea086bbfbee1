"""The network as CIFAR-10 tutorials write it, for comparison with ours."""

import copy
from functools import cache

import torch
from torch import Tensor, nn

ROWS = [(32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]


class TutorialNet(nn.Module):
    """MobileNet with the names conv1, conv2_1 ... conv2_8 and fc; takes normalised float pictures."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU())
        for number, (inputs, outputs, stride) in enumerate(ROWS, 1):
            block = nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )
            self.add_module(f"conv2_{number}", block)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in range(1, 9):
            x = self.get_submodule(f"conv2_{number}")(x)
        x = nn.functional.avg_pool2d(x, 2)
        return self.fc(x.view(-1, 512))


def trained_looking(classes: int = 10) -> TutorialNet:
    """One whose batch-norms have statistics and affine parameters as after training: none of them zero or one."""
    return copy.deepcopy(_trained_looking(classes))


@cache
def _trained_looking(classes: int) -> TutorialNet:
    torch.manual_seed(1)
    network = TutorialNet(classes)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.4)
                module.bias.normal_(0, 0.3)
        for _ in range(10):
            network(torch.randn(16, 3, 32, 32))
    return network.eval()
