/* What one call of mark(stage) was seen to be. */
enum { STAGES = 16 };

struct seen {
	unsigned long long hits, start, none;
	int pid, tgid, parent, leader, prio, static_prio, exit_code, same;
	unsigned int state, mnt, uts, user, uid, euid, suid, fsuid, gid, egid;
	int bad, bad_user, legacy, pad;
	char comm[16], leader_comm[16], parent_comm[16], own_comm[16];
};
