/* Arm semihosting: a debugger or emulator does what the program asks for at a breakpoint.
 * Specification: Arm, Semihosting for AArch32 and AArch64. */
#include <string.h>

#include "host.h"

enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT = 0x18, SYS_EXIT_EXTENDED = 0x20 };

static int ask(int operation, const void *arguments) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void host_print(const char *text) { (void)ask(SYS_WRITE0, text); }

void host_exit(int code) {
  const uint32_t reason[2] = {0x20026u /* ADP_Stopped_ApplicationExit */, (uint32_t)code};
  (void)ask(SYS_EXIT_EXTENDED, reason);
  (void)ask(SYS_EXIT, (const void *)(uintptr_t)0x20026u);
  for (;;) {
  }
}

int host_open(const char *name, int to_write) {
  const uint32_t arguments[3] = {(uint32_t)(uintptr_t)name, to_write ? 5u /* wb */ : 1u /* rb */, (uint32_t)strlen(name)};
  return ask(SYS_OPEN, arguments);
}

static int transfer(int operation, int file, const void *data, uint32_t count) {
  const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)(uintptr_t)data, count};
  return ask(operation, arguments) == 0; /* how much is left */
}

int host_read(int file, void *data, uint32_t count) { return transfer(SYS_READ, file, data, count); }
int host_write(int file, const void *data, uint32_t count) { return transfer(SYS_WRITE, file, data, count); }
void host_close(int file) {
  const uint32_t arguments[1] = {(uint32_t)file};
  (void)ask(SYS_CLOSE, arguments);
}
