import sys; sys.path.insert(0,sys.argv[1])
from compat_tests.clients.testrun.headers import *
def q(*steps,p='ipv4',cut=None):
    out=[]
    for n in range(1,len(steps)+1):
        code=insn(0xBF,6,1)
        for number,*args in steps[:n]:
            code+=insn(0xBF,1,6)
            for regno,v in enumerate(args,2): code+=insn(0x18,regno,0,0,v&0xffffffff)+insn(0,0,0,0,v>>32)
            code+=call(number)
        r=run(load(CLS,code+EXIT),PACKETS[p][:cut],OUT); x=r['retval']; out.append((x if x<1<<31 else x-(1<<32),r['size']))
    print(len(steps),steps[0],p,cut,out[-1])
for n in range(4,9): q(*(((18,0x81,0),)*n),(97,),p='ipv6')
for n in range(4,9): q(*(((18,0x81,0),)*n),(97,),p='ipv4')
q(*(((18,0x81,0x10),)*7),(97,),p='ipv6')
q(*(((18,0x81,0x10),)*8),(97,),p='ipv6')
q(*(((18,0x81,0x10),)*6),(97,),p='ipv6')
