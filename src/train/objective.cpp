#include "train/objectives.h"

namespace lathe {

std::unique_ptr<Objective> Objective::make(TrainingTruth truth, const std::string& description) {
  switch (truth) {
    case TrainingTruth::kClass: return class_objective();
    case TrainingTruth::kBoxes: return box_objective();
    case TrainingTruth::kMask: break;
  }
  fail(ErrorKind::kUnsupported, "training on {}: samples need a class each, or boxes", description);
}

}  // namespace lathe
