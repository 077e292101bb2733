// The families of operators, one function a file of this folder; registry.cpp calls each once.
#pragma once

#include "graph/op.h"

namespace lathe::ops {

void declare_elementwise(OpRegistry&);  // unary, binary, variadic, comparison, logic, Cast, Where, Clip
void declare_conv(OpRegistry&);         // Conv*, ConvTranspose, DeformConv, Col2Im, pooling
void declare_matmul(OpRegistry&);       // MatMul, Gemm, Einsum, Det, integer and QLinear products
void declare_normalize(OpRegistry&);    // BatchNormalization … RMSNormalization, Softmax family, LRN
void declare_reduce(OpRegistry&);       // Reduce*, ArgMax/Min, CumSum, TopK
void declare_shape(OpRegistry&);        // Reshape, Transpose, Concat, Split, Slice, Pad, Expand, Tile …
void declare_index(OpRegistry&);        // Gather*, Scatter*, NonZero, OneHot, Unique, Compress, Trilu …
void declare_create(OpRegistry&);       // Constant*, Range, EyeLike, Random*, Bernoulli, windows
void declare_control(OpRegistry&);      // If, Loop, Scan
void declare_recurrent(OpRegistry&);    // RNN, GRU, LSTM
void declare_attention(OpRegistry&);    // Attention, RotaryEmbedding and their like
void declare_image(OpRegistry&);        // Resize, GridSample, AffineGrid, RoiAlign, NMS, DepthToSpace …
void declare_quantize(OpRegistry&);     // QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear
void declare_signal(OpRegistry&);       // DFT, STFT, MelWeightMatrix
void declare_loss(OpRegistry&);         // NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss
void declare_text(OpRegistry&);         // TfIdfVectorizer
void declare_ml(OpRegistry&);           // ai.onnx.ml: trees, linear models, encoders
void declare_fused(OpRegistry&);        // ai.lathe: what fusion makes
void declare_integer_tokens(OpRegistry&);  // ai.lathe: norms and attention of codes in whole numbers
void declare_integer(OpRegistry&);      // ai.lathe: arithmetic on quantized tensors
void declare_coded(OpRegistry&);        // ai.lathe: products whose weights are stored in few bits

}  // namespace lathe::ops
