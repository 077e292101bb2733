// Operations on the values of pixels, for augmentation: u8 [C, …], a picture or a clip alike in all its frames, changed in place.
// They follow Pillow's ImageEnhance and ImageOps, which the published policies were made with; statistics are taken over the whole clip.
#pragma once

#include "core/tensor.h"
#include "data/random.h"

namespace lathe {

// Weighted with the factor against grey, the mean grey, or black: 0 gives that, 1 the picture, more exaggerates. On pictures of one
// channel saturation changes nothing.
void adjust_saturation(Tensor& picture, double factor);
void adjust_contrast(Tensor& picture, double factor);
void adjust_brightness(Tensor& picture, double factor);
// Against the mean of 3 × 3 pixels, whose middle counts five times; the border stays.
void adjust_sharpness(Tensor& picture, double factor);
// Turns the hue by this part of the circle; pictures of three channels only.
void adjust_hue(Tensor& picture, double turn);
void stretch_contrast(Tensor& picture);  // each channel to 0 … 255: autocontrast
void equalize(Tensor& picture);          // each channel's histogram
void solarize(Tensor& picture, int threshold);  // inverts pixels from the threshold on
void posterize(Tensor& picture, int bits);      // keeps this many, 1 … 8

// Bilinear, zeros outside: the pixel at (x, y) from the middle comes from (a·x + b·y + c, d·x + e·y + f) from the middle.
struct Affine {
  double a = 1, b = 0, c = 0, d = 0, e = 1, f = 0;
};
void warp(Tensor& picture, const Affine& from);

// One of RandAugment's operations (Cubuk et al. 2019, section 3.1: identity, autocontrast, equalize, rotate, solarize, colour, posterize,
// contrast, brightness, sharpness, shear x and y, translate x and y) with a magnitude of 0 … 30, ranges as in torchvision's RandAugment
// (31 steps): shear to 0.3, translation to 150/331 of the side, rotation to 30°, factors to 1 ± 0.9, solarize from 255 down to 0,
// posterize from 8 bits to 4. Those with a direction take either with equal probability.
constexpr int kRandAugmentOperations = 14;
constexpr double kMaxMagnitude = 30;
void rand_augment_operation(Tensor& picture, int operation, double magnitude, Random& random);

}  // namespace lathe
