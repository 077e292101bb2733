#!/usr/bin/python3
"""Exports ten torchvision classifiers to ONNX, to time them in lathe and its peers.

The weights are random but seeded, so that every machine makes the same networks without a download;
accuracy plays no part in a timing. Needs Debian's python3-torchvision.

    export_torchvision.py OUT_FOLDER [--networks resnet50,vit_b_16] [--batch 1] [--dynamic] [--seed 7]
"""
import argparse
import os
import sys
import warnings

import torch
import torchvision

NETWORKS = [
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "resnet18",
    "resnet50",
    "densenet121",
    "convnext_tiny",
    "vit_b_16",
]


def vary_batch_norm(network, generator):
    """Gives batch norms statistics other than mean 0, variance 1, so that folding them is not trivial."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) * 0.5 + 0.75)


def export(name, folder, batch, dynamic, seed):
    torch.manual_seed(seed)
    network = getattr(torchvision.models, name)(weights=None).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        vary_batch_norm(network, generator)
    image = torch.randn(batch, 3, 224, 224, generator=generator)
    path = os.path.join(folder, name + ".onnx")
    torch.onnx.export(
        network,
        image,
        path + ".part",
        opset_version=14,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "N"}, "output": {0: "N"}} if dynamic else None,
    )
    os.replace(path + ".part", path)
    print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dynamic", action="store_true", help="leave the batch size open")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    networks = arguments.networks.split(",")
    unknown = [name for name in networks if name not in NETWORKS]
    if unknown:
        sys.exit(f"unknown networks {unknown}; known are {NETWORKS}")
    os.makedirs(arguments.folder, exist_ok=True)
    warnings.filterwarnings("ignore")
    for name in networks:
        export(name, arguments.folder, arguments.batch, arguments.dynamic, arguments.seed)


if __name__ == "__main__":
    main()
