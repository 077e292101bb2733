/* Start-up without an operating system: vectors, memory, floating point, then main(). */
#include <stdint.h>

#include "host.h"

extern uint32_t stack_top, stack_bottom, data_begin, data_end, data_source, bss_begin, bss_end;
int main(void);

static volatile uint32_t ticks_high;

void reset_handler(void);
void fault_handler(void);
void tick_handler(void);
void reset_handler(void) {
#if defined(__ARM_FP)
  *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to the floating-point unit */
  __asm__ volatile("dsb\n\tisb");
#endif
  const uint32_t *from = &data_source;
  for (uint32_t *to = &data_begin; to < &data_end;) *to++ = *from++;
  for (uint32_t *to = &bss_begin; to < &bss_end;) *to++ = 0;
  host_exit(main());
}

void fault_handler(void) {
  host_print("fault\n");
  host_exit(1);
}

void tick_handler(void) { ++ticks_high; }

typedef void (*handler)(void);
__attribute__((used, section(".vectors"))) static const handler vectors[16] = {
    (handler)&stack_top, reset_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler, 0,
    0, 0, 0, fault_handler, fault_handler, 0, fault_handler, tick_handler};

/* SysTick counts the processor's clock down, 24 bits at a time. */
void host_start_clock(void) {
  *(volatile uint32_t *)0xE000E014u = 0xFFFFFFu;
  *(volatile uint32_t *)0xE000E018u = 0;
  *(volatile uint32_t *)0xE000E010u = 7;
  while (*(volatile uint32_t *)0xE000E018u == 0) { /* until it has taken its first value */
  }
}

uint64_t host_ticks(void) {
  uint32_t high, low;
  do {
    high = ticks_high;
    low = *(volatile uint32_t *)0xE000E018u;
  } while (high != ticks_high);
  return ((uint64_t)high << 24) | (0xFFFFFFu - low);
}

/* A loop of `rounds` times two instructions, to tell instructions from ticks in an emulator that counts them. */
void host_count_to(uint32_t rounds) { __asm__ volatile("1: subs %0, %0, #1\n\tbne 1b" : "+r"(rounds) : : "cc"); }

/* What the stack has taken at most: it is painted first. */
#define PAINT 0x5aa55aa5u
void host_paint_stack(void) {
  uint32_t *here;
  __asm__ volatile("mov %0, sp" : "=r"(here));
  for (uint32_t *p = &stack_bottom; p < here - 8; ++p) *p = PAINT;
}
uint32_t host_stack_used(void) {
  const uint32_t *p = &stack_bottom;
  while (p < &stack_top && *p == PAINT) ++p;
  return (uint32_t)((uintptr_t)&stack_top - (uintptr_t)p);
}
