#!/usr/bin/python3
"""Export well-known torchvision networks to ONNX, for benchmarks.

    /usr/bin/python3 export_torchvision.py DIR [NAME ...] [--seed N]

Writes DIR/NAME.onnx for every network (or only those named): 224x224 RGB input, dynamic batch,
evaluation mode. Weights are random but seeded: latency and peak memory do not depend on their
values, and nothing has to be downloaded. Needs Debian's python3-torchvision, nothing else.
"""
import argparse
import os
import sys
import traceback
import warnings

import torch
import torchvision

NAMES = [
    "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0",
    "efficientnet_b0", "resnet18", "resnet50", "densenet121", "convnext_tiny", "vit_b_16",
]
# Newest first: torch 1.13 offers 17, but not every operator can be written in every version.
OPSETS = [17, 16, 14, 13]
IMAGE_SIZE = 224


def disable_fused_attention():
    """Make torch.nn.MultiheadAttention run its plain operators.

    Its fast path in evaluation mode is one fused operator that has no ONNX form, and the exporter
    cannot be told to avoid it; so the module gets a forward that only knows the slow path.
    """

    def forward(self, query, key, value, key_padding_mask=None, need_weights=True,
                attn_mask=None, average_attn_weights=True):
        if self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        out, weights = torch.nn.functional.multi_head_attention_forward(
            query, key, value, self.embed_dim, self.num_heads, self.in_proj_weight,
            self.in_proj_bias, self.bias_k, self.bias_v, self.add_zero_attn, self.dropout,
            self.out_proj.weight, self.out_proj.bias, training=False,
            key_padding_mask=key_padding_mask, need_weights=need_weights, attn_mask=attn_mask,
            average_attn_weights=average_attn_weights)
        return (out.transpose(0, 1) if self.batch_first else out), weights

    torch.nn.MultiheadAttention.forward = forward


def make(name, seed):
    """Build a network with seeded weights and batch-norm statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    model = getattr(torchvision.models, name)(weights=None)
    if name.startswith("vit"):
        # The head starts at zero, so that every output would be zero and no check would see a thing.
        torch.nn.init.normal_(model.heads.head.weight, std=0.02)
    if any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        # Statistics of 0 and 1 would make folding batch norms trivial, and activations of random
        # weights grow or vanish with depth. The plain average of two batches keeps both in range.
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = None
        model.train()
        with torch.no_grad():
            for _ in range(2):
                model(torch.randn(4, 3, IMAGE_SIZE, IMAGE_SIZE))
    return model.eval()


def export(name, directory, seed):
    """Write directory/name.onnx with the newest operator set that works; return that set."""
    model = make(name, seed)
    # A batch of two: with one, the tracer would take the batch for a broadcast dimension.
    example = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    path = os.path.join(directory, name + ".onnx")
    temporary = path + ".part"
    failure = None
    for opset in OPSETS:
        try:
            torch.onnx.export(model, example, temporary, opset_version=opset,
                              input_names=["input"], output_names=["output"],
                              dynamic_axes={"input": {0: "N"}, "output": {0: "N"}})
            os.replace(temporary, path)
            return opset
        except Exception as error:  # the exporter raises many kinds; an older set may still do
            failure = failure or error
            print(f"{name}: operator set {opset} failed: {error}", file=sys.stderr)
    if os.path.exists(temporary):
        os.remove(temporary)
    raise RuntimeError(f"{name}: no operator set works") from failure


def main():
    parser = argparse.ArgumentParser(description="Export torchvision networks to ONNX.")
    parser.add_argument("directory")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: " + " ".join(NAMES))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.makedirs(arguments.directory, exist_ok=True)
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
    disable_fused_attention()
    failed = []
    for name in arguments.names or NAMES:
        try:
            opset = export(name, arguments.directory, arguments.seed)
            size = os.path.getsize(os.path.join(arguments.directory, name + ".onnx"))
            print(f"{name}: {size / 1e6:.1f} MB, operator set {opset}", flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        print("failed: " + " ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
