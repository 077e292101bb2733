// The objectives there are; Objective::make picks one.
#pragma once

#include "train/objective.h"

namespace lathe {

std::unique_ptr<Objective> class_objective();  // accuracy
std::unique_ptr<Objective> box_objective();    // mAP@0.5

}  // namespace lathe
