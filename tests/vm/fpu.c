/*
 * Lets a user-mode Linux older than 6.13 run on a processor whose vector registers are larger than it was built for (those with AMX,
 * say). It saves and restores a fixed number of bytes of them by ptrace; the host gives out as many as are asked for, but takes back only all of
 * them. Preloaded, this fills up what is handed back. The rest is zero, which is the initial state of registers that no program
 * in the machine can use, since its kernel does not know of them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PEEKTEXT = 1, PEEKUSER = 3, GETREGSET = 0x4204, SETREGSET = 0x4205, XSTATE = 0x202 };

static char all[64 << 10] __attribute__((aligned(64)));
static size_t size; /* what the host takes */

long ptrace(int request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	long pid = va_arg(arguments, long);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	struct iovec whole = { all, sizeof all };
	if (request == SETREGSET && (long)address == XSTATE) {
		const struct iovec *part = data;
		if (!size && syscall(SYS_ptrace, GETREGSET, pid, address, &whole) == 0) {
			size = whole.iov_len;
			memset(all, 0, sizeof all);
		}
		if (part->iov_len < size) {
			memcpy(all, part->iov_base, part->iov_len);
			whole.iov_len = size;
			data = &whole;
		}
	}
	/* The C library's peeks return what the system call writes. */
	long word = 0;
	int peeks = request >= PEEKTEXT && request <= PEEKUSER;
	long result = syscall(SYS_ptrace, request, pid, address, peeks ? (void *)&word : data);
	if (peeks && result >= 0) {
		errno = 0;
		return word;
	}
	return result;
}
