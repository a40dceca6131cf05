#!/usr/bin/env python3
"""The other side of the comparison in docs/results.md: a residual network of the size that `shadernet new` proposes, trained by PyTorch with
torchvision's usual augmentation, for as many epochs, in batches of the same size.

    python3 data/experiments/pytorch_pictures.py FOLDER --height 32 --width 32 --epochs 30 --batch 64 --seeds 5 [--grey] [--no-flip]
"""

import argparse
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets, transforms


class Block(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
        same = stride == 1 and before == channels
        self.shortcut = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        return torch.relu(self.main(x) + self.shortcut(x))


def network(channels, classes, width, halved):
    """A stem and three blocks of `width`, 2 and 3 times as many channels: a small ResNet."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2 if halved else 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 3 * width, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3 * width, classes))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--channels", type=int, default=16, help="of the first block")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=3000)
    parser.add_argument("--grey", action="store_true")
    parser.add_argument("--no-flip", action="store_true")
    parser.add_argument("--halved", action="store_true", help="the first convolution has stride 2")
    args = parser.parse_args()

    size = (args.height, args.width)
    prepare = [transforms.Resize(size)] if size else []
    if args.grey:
        prepare.append(transforms.Grayscale())
    prepare = transforms.Compose([*prepare, transforms.ToTensor()])
    parts = {}
    for part in ("train", "test"):
        folder = datasets.ImageFolder(f"{args.folder}/{part}", prepare)
        images, labels = zip(*folder)
        parts[part] = torch.stack(images), torch.tensor(labels)
    classes = len(folder.classes)
    mean, std = parts["train"][0].mean((0, 2, 3)), parts["train"][0].std((0, 2, 3))
    # A picture's own border continues beyond its edge, where torchvision pads at all.
    change = [transforms.RandomCrop(size, padding=max(1, round(min(size) / 14)), padding_mode="edge")]
    if not args.no_flip:
        change.append(transforms.RandomHorizontalFlip())
    change.append(transforms.RandomRotation(10, fill=1.0) if args.grey else transforms.RandomRotation(10, fill=[1.0] * 3))
    if not args.grey:
        change.append(transforms.ColorJitter(0.2, 0.2, 0.2, 0.02))
    change = transforms.Compose(change)
    normalise = transforms.Normalize(mean, std)

    class Changed(TensorDataset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return normalise(change(image)), label

    for seed in range(args.first_seed, args.first_seed + args.seeds):
        start = time.time()
        torch.manual_seed(seed)
        net = network(1 if args.grey else 3, classes, args.channels, args.halved)
        loader = DataLoader(Changed(*parts["train"]), args.batch, shuffle=True)
        peak = 0.1 if args.batch >= 64 else 0.05
        optimizer = torch.optim.SGD(net.parameters(), peak, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, peak, epochs=args.epochs, steps_per_epoch=len(loader), pct_start=0.2, cycle_momentum=False)
        loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        for _ in range(args.epochs):
            net.train()
            for images, labels in loader:
                optimizer.zero_grad()
                loss(net(images), labels).backward()
                optimizer.step()
                schedule.step()
        net.eval()
        with torch.no_grad():
            answers = torch.cat([net(normalise(part)).argmax(1) for part in parts["test"][0].split(500)])
        hits = (answers == parts["test"][1]).float().mean().item()
        count = sum(parameter.numel() for parameter in net.parameters())
        print(f"seed {seed}: {100 * hits:.2f} %, {count} parameters, {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
