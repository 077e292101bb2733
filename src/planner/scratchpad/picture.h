// A schedule as a picture: time across, address up, one colour a tensor; loads and stores are marked.
#pragma once

#include "planner/scratchpad/schedule.h"

namespace lathe {

std::string schedule_svg(const ScheduleProblem& problem, const ScratchSchedule& schedule, const std::string& title);
// A page of its own: the figures, the picture, the steps.
std::string schedule_html(const ScheduleProblem& problem, const ScratchSchedule& schedule, const std::string& title);

}  // namespace lathe
