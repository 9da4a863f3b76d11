/* What kernel functions give and protect, as programs declare it, and objects that they keep. */
#ifndef OWNED_H
#define OWNED_H

#include <linux/bpf.h>
#include <linux/version.h>
#include <bpf/bpf_helpers.h>

#define KSYM __attribute__((section(".ksyms")))
/* hidden: a later libbpf would map the section, which no kernel does where there are such objects */
#define private(name) SEC(".bss." #name) __hidden __attribute__((aligned(8)))
#define __contains(name, node) __attribute__((btf_decl_tag("contains:" #name ":" #node)))

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0) /* later headers have them */
struct bpf_rb_root {
	__u64 opaque[2];
} __attribute__((aligned(8)));
struct bpf_rb_node {
	__u64 opaque[4];
} __attribute__((aligned(8)));
struct bpf_list_head {
	__u64 opaque[2];
} __attribute__((aligned(8)));
struct bpf_list_node {
	__u64 opaque[3];
} __attribute__((aligned(8)));
struct bpf_refcount {
	__u32 opaque[1];
} __attribute__((aligned(4)));
#endif
struct bpf_res_spin_lock {
	__u32 val;
};
struct bpf_task_work {
	__u64 opaque;
} __attribute__((aligned(8)));
struct bpf_map {
	int unused;
};
struct task_struct {
	int unused;
};

typedef int (*later_t)(struct bpf_map *map, void *key, void *value);
typedef _Bool (*less_t)(struct bpf_rb_node *a, const struct bpf_rb_node *b);

extern void *bpf_obj_new_impl(__u64 type, void *meta) KSYM;
extern void bpf_obj_drop_impl(void *object, void *meta) KSYM;
extern void *bpf_refcount_acquire_impl(void *object, void *meta) KSYM;
extern int bpf_list_push_front_impl(struct bpf_list_head *head, struct bpf_list_node *node, void *meta,
				    __u64 off) KSYM;
extern struct bpf_rb_node *bpf_rbtree_remove(struct bpf_rb_root *root, struct bpf_rb_node *node) KSYM;
extern int bpf_rbtree_add_impl(struct bpf_rb_root *root, struct bpf_rb_node *node, less_t less,
			       void *meta, __u64 off) KSYM;
extern struct bpf_rb_node *bpf_rbtree_first(struct bpf_rb_root *root) KSYM;
extern struct bpf_rb_node *bpf_rbtree_root(struct bpf_rb_root *root) KSYM;
extern struct bpf_rb_node *bpf_rbtree_left(struct bpf_rb_root *root, struct bpf_rb_node *node) KSYM;
extern struct bpf_rb_node *bpf_rbtree_right(struct bpf_rb_root *root, struct bpf_rb_node *node) KSYM;
extern void bpf_local_irq_save(unsigned long *flags) KSYM;
extern void bpf_local_irq_restore(unsigned long *flags) KSYM;
extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) KSYM;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) KSYM;
extern int bpf_res_spin_lock_irqsave(struct bpf_res_spin_lock *lock, unsigned long *flags) KSYM;
extern void bpf_res_spin_unlock_irqrestore(struct bpf_res_spin_lock *lock, unsigned long *flags) KSYM;
extern void bpf_rcu_read_lock(void) KSYM;
extern void bpf_rcu_read_unlock(void) KSYM;
extern void bpf_preempt_disable(void) KSYM;
extern void bpf_preempt_enable(void) KSYM;
extern void bpf_throw(__u64 cookie) KSYM;
extern struct task_struct *bpf_task_from_pid(int pid) KSYM;
extern void bpf_task_release(struct task_struct *p) KSYM;
extern int bpf_task_work_schedule_signal_impl(struct task_struct *task, struct bpf_task_work *work,
					      void *map, later_t later, void *aux) KSYM;
extern int bpf_copy_from_user_str(void *dst, __u32 size, const void *from, __u64 flags) KSYM;

#define bpf_obj_new(type) ((type *)bpf_obj_new_impl(__builtin_btf_type_id(*(type *)0, 0), 0))

struct thing {
	struct bpf_rb_node rb;
	struct bpf_refcount ref;
	struct bpf_list_node l;
	__u64 key;
};
struct plain {
	struct bpf_rb_node rb;
	__u64 key;
};

__u64 out;
volatile int in;
char _license[] SEC("license") = "GPL";

#endif
