-- Work of one round; see workloads.py.
select sum(a*b), md5(string_agg(c, ',' order by a)) from (select i a, i%17 b, 'v'||i c from generate_series(1,400) i) t;
with recursive f(n,a,b) as (select 1,1::numeric,1::numeric union all select n+1,b,a+b from f where n<60) select max(b) from f;
drop table if exists t;
create table t(a int primary key, b text, c jsonb);
insert into t select i, repeat('x', i%30), jsonb_build_object('k', i) from generate_series(1,300) i;
create index on t(b);
update t set b=b||'y' where a%3=0;
delete from t where a%7=0;
select count(*), sum(length(b)), sum((c->>'k')::int) from t where b like 'x%';
select t1.a from t t1 join t t2 on t1.a=t2.a+1 where t2.b ~ 'xy$' order by 1 desc limit 3;
select to_char(date '2024-02-29' + 366, 'YYYY Mon DD'), 2::numeric ^ 0.5, array_agg(x) from unnest(array[3,1,2]) x;
