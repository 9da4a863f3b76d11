/* The agent's end of a stream to a backend: whole messages, bounded waits. */
#ifndef AGENT_WIRE_H
#define AGENT_WIRE_H

#include "shim_wire.h"

/* Connects to a session's socket; the peer must be of this user or root. Descriptor or -errno. Each part
 * of a message is waited for 10 seconds; a minute, unless hurried, while the peer is busy. */
long agent_connect(const char *path, u32 hurried);
/* The service's thread alone, whatever path it is given: by SHIM_PAIR it begins with a pair of sockets, of
 * which the keeper takes the second; what comes before that is watched call by call. agent_pair: the first,
 * or -errno. It ends with agent_pair_end: that waits for the end of the stream, as long as for a message,
 * so that the thread does not go home before the keeper wants it to. */
void agent_pair_begin(const char *path);
long agent_pair(void);
void agent_pair_end(void);

/* A header, with up to SHIM_MAX_FDS descriptors (the caller closes them; *nfds is their number),
 * then payload by agent_recv. 0 or -errno; -EPROTO: the stream ended or is not of this protocol. */
long agent_recv_header(long sock, struct shim_msg *msg, s32 *fds, u32 *nfds);
long agent_recv(long sock, void *buf, u64 len);
long agent_send(long sock, const void *buf, u64 len);

/* Something has come that was not taken yet; at least the rest of its message is on its way. */
int agent_has_more(void);
/* Before a stream's first header, and after its last: what is left of it is not wanted. A fork child may
 * find a part of its parent's, whose descriptors are none of its own any more. */
void agent_recv_begin(void);
void agent_recv_end(void);

#endif
