// Random changes of training samples. What happens to a sample follows from (seed, epoch, index of the sample) alone, whatever
// the number of threads and whoever asks first.
//
//   AugmentOptions a = parse_augment("flip,crop=4,randaugment=2:9,erase=0.25");
//   Random random(seed, epoch, index);
//   augment(sample, a, random);
//
// Order: window in time · SSD crop, random resized crop, clip crop or fit to the size · pad and crop · flip · RandAugment · colour
// jitter · erasing. Geometry takes boxes and masks along. A clip is changed alike in all its frames.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/random.h"

namespace lathe {

// How a sample gets the wanted size where no random crop gives it.
enum class Fit {
  kStretch,  // both sides to the size, proportions given up
  kCrop,     // scaled until the shorter side is size / crop_ratio, then the centre
  kPad,      // zeros around it, or cut off around it, never scaled
};

struct AugmentOptions {
  int64_t height = 0, width = 0;  // what samples become; 0: as they are
  Fit fit = Fit::kCrop;
  double crop_ratio = 1;          // ImageNet's custom: 224 / 256 = 0.875
  int64_t frames = 0;             // of clips: so many consecutive ones, looped where there are fewer; 0: all

  bool random = false;            // false: nothing below happens, a window in time is the middle one
  double flip = 0;                // probability of left to right
  int64_t pad_crop = 0;           // zeros of this width around, then a crop of the size before
  bool resized_crop = false;      // Szegedy et al. 2015: area and proportions uniform in these ranges (the latter in log)
  double min_area = 0.08, max_area = 1, max_aspect = 4.0 / 3;
  bool clip_crop = false;         // resnet3d 2.1: four corners or the centre, scale 2^(−k/4), k = 0 … 4, of the shorter side
  bool ssd_crop = false;          // mobiledets 2.4: seven options of least overlap, aspect ½ … 2, area 0.1 … 1, original kept with 0.15
  // Colour jitter: factors uniform in 1 ± x; hue turned by up to ± x of the circle (0 … 0.5).
  double brightness = 0, contrast = 0, saturation = 0, hue = 0;
  // RandAugment (Cubuk et al. 2019): operations a sample, strength of 0 … 30.
  int operations = 0;
  double magnitude = 9;
  double erase = 0;               // Zhong et al. 2017: probability; area 0.02 … 1/3, aspect 0.3 … 3.3, random pixels
};

// "flip" (½) · "flip=P" · "crop=PIXELS" · "resized-crop[=MIN_AREA]" · "clip-crop" · "ssd-crop" · "jitter=B[:C[:S[:H]]]" ·
// "randaugment[=N[:M]]" · "erase=P", any of them behind commas; "none". Throws kUsage.
AugmentOptions parse_augment(const std::string& text);

// Throws kUsage when the options cannot be used on such samples (SSD crop without boxes, RandAugment on boxes, …).
void check_augment(const AugmentOptions& options, const Sample& sample, TrainingTruth truth);

// Leaves the elements of `sample` as they are and puts new ones in their place. u8 samples take all of it; f32 samples what only moves
// elements (flip, pad and crop, kPad, windows in time).
void augment(Sample& sample, const AugmentOptions& options, Random& random);

// Starts of windows of `frames` that cover a clip without overlap, at least one: for recognition of a whole video by the mean of
// its windows' scores (resnet3d 2.1). A last one that the clip does not fill is left out.
std::vector<int64_t> clip_windows(int64_t clip_frames, int64_t frames);
// Frames [start, start + frames) of [C, T, H, W], looped behind the end.
Tensor clip_window(const Tensor& clip, int64_t start, int64_t frames);

// On batches: inputs f32 [N, C, …], soft labels f32 [N, K]. Sample i is mixed with sample N − 1 − i.
// mixup (Zhang et al. 2017): x = λ·x_i + (1 − λ)·x_j, the same for labels.
void mixup(Tensor& inputs, Tensor& soft_labels, float lambda);
// cutmix (Yun et al. 2019): a rectangle of area 1 − λ at a random place comes from j; labels by the area that it really has.
void cutmix(Tensor& inputs, Tensor& soft_labels, float lambda, Random& random);
// i64 [N] → f32 [N, classes], 1 at the label.
Tensor one_hot(const Tensor& labels, int64_t classes);

}  // namespace lathe
