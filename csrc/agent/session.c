/* Sessions as mapped in this process. All of it under root.lock. */
#include "keys.h"
#include "stays.h"

struct stat_head { /* struct stat of x86-64: 144 bytes, of which these */
	u64 dev, ino, nlink;
	u32 mode, uid, gid, pad;
	u64 rdev;
	s64 size;
	u64 rest[11];
};

static long map_shared(long fd, u64 size, u64 ino, u64 *address)
{
	struct stat_head st;
	long at = shim_sys2(NR_FSTAT, fd, &st);

	_Static_assert(sizeof(struct stat_head) == 144, "struct stat");
	if (at < 0)
		return at;
	/* a mapping beyond the file's end would be a SIGBUS waiting */
	if (!size || (u64)st.size < size || (ino && st.ino != ino))
		return -E_INVAL;
	at = shim_sys6(NR_MMAP, 0, (long)size, PROT_RW, MAP_SHARED_, fd, 0);
	if (at < 0 && at > -4096)
		return at;
	*address = (u64)at;
	return 0;
}

static void forget(struct shim_session *s)
{
	u64 ctl = s->ctl, ctl_size = s->ctl_size, perf = s->perf, perf_size = s->perf_size;
	u64 objects = s->objects;

	agent_zero(s, sizeof(*s));
	if (ctl)
		shim_sys2(NR_MUNMAP, ctl, ctl_size);
	if (perf)
		shim_sys2(NR_MUNMAP, perf, perf_size);
	agent_objects_end(objects);
}

/* Index of the session, mapped and with a slot of ours; again for one that is known already. */
long agent_session_add(const struct shim_agent_session *msg, long ctl_fd, long perf_fd)
{
	struct shim_agent *root = &shim_agent_root;
	struct shim_session fresh = { 0 };
	struct shim_ctl *ctl;
	u32 index = SHIM_MAX_SESSIONS;
	long ret;

	if (!msg->id || msg->ctl_size < sizeof(struct shim_ctl) || !msg->ctl_ino)
		return -E_INVAL;
	for (u32 i = SHIM_MAX_SESSIONS; i-- > 0;) {
		if (root->sessions[i].id == msg->id && root->sessions[i].ctl_ino == msg->ctl_ino)
			return i;
		if (!root->sessions[i].id)
			index = i;
	}
	if (index == SHIM_MAX_SESSIONS)
		return -E_NOSPC;
	ret = agent_names_session(msg);
	if (ret)
		return ret;
	fresh.ctl_size = msg->ctl_size;
	fresh.perf_size = msg->perf_size;
	fresh.ctl_ino = msg->ctl_ino;
	ret = map_shared(ctl_fd, msg->ctl_size, msg->ctl_ino, &fresh.ctl);
	if (!ret && msg->perf_size)
		ret = map_shared(perf_fd, msg->perf_size, 0, &fresh.perf);
	ctl = (struct shim_ctl *)fresh.ctl;
	if (!ret && (ctl->magic != SHIM_CTL_MAGIC || ctl->version != SHIM_CTL_VERSION))
		ret = -E_INVAL;
	if (!ret) {
		fresh.owner = shim_slot_claim(ctl, agent_seen_pid(), agent_start_time());
		ret = fresh.owner ? 0 : -E_NOSPC;
	}
	if (ret) {
		forget(&fresh);
		return ret;
	}
	agent_copy(&root->sessions[index], &fresh, sizeof(fresh));
	agent_store(&root->sessions[index].id, msg->id);
	if (index >= root->nr_sessions)
		agent_store(&root->nr_sessions, index + 1);
	return index;
}

/* -EBUSY: links or runnables are left, or a run that might use it does not end. */
long agent_session_end(u32 index, u32 patience)
{
	struct shim_agent *root = &shim_agent_root;
	u32 id = index < SHIM_MAX_SESSIONS ? root->sessions[index].id : 0;

	if (!id)
		return -E_INVAL;
	for (u32 i = 0; i < root->nr_links; i++)
		if (agent_links()[i].live && agent_links()[i].session == index)
			return -E_BUSY;
	for (u32 i = 0; i < root->nr_runnables; i++)
		if (root->runnables[i].live && root->runnables[i].session == index)
			agent_store(&root->runnables[i].live, 0u);
	/* who looks for some session's page, under a guard, does not find this one any more */
	agent_store(&root->sessions[index].id, 0u);
	if (agent_quiesce(patience)) {
		agent_store(&root->sessions[index].id, id);
		return -E_BUSY;
	}
	agent_quick_look();
	shim_unwind_set(index, NULL, 0, 0);
	for (u32 i = 1; i < AGENT_THREADS; i++) { /* they may keep a virtual CPU of another one's */
		struct shim_thread *t = &agent_threads()[i];

		if (t->fs_base && (t->entry_of == index || !t->entry)) {
			agent_store(&t->entry, (u16)0);
			agent_store(&t->entry_of, (u16)0);
		}
	}
	forget(&root->sessions[index]);
	agent_keys_forget(index);
	return 0;
}
