import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;

/** A workload as actor.c, for a tool that watches a Java machine: each scene is three collections. */
class Collector {
    public static void main(String[] args) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        System.out.println("pid " + ProcessHandle.current().pid());
        while (in.readLine() != null) {
            for (int i = 0; i < 3; i++)
                System.gc();
            System.out.println("did 0");
        }
    }
}
