// JDBC: say who the user is first in the transaction.

import java.net.URI;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;

class WithJdbc {
    static final String ADA = "11111111-1111-1111-1111-111111111111";
    static final String BOB = "22222222-2222-2222-2222-222222222222";
    static final Map<String, List<String>> PLANS = Map.of(ADA, List.of("enterprise", "team"), BOB, List.of("free"));

    static Connection connect() throws SQLException {
        var url = URI.create(System.getenv("DATABASE_URL"));
        var login = url.getUserInfo().split(":");
        var address = "jdbc:postgresql://" + url.getHost() + ":" + url.getPort() + url.getPath();
        return DriverManager.getConnection(address, login[0], login[1]);
    }

    static List<String> plans(Connection connection, String user) throws SQLException {
        var plans = new ArrayList<String>();
        connection.setAutoCommit(false);
        try (var statement = connection.prepareStatement("select set_config('app.current_user_id', ?, true)")) {
            statement.setString(1, user);
            statement.execute();
        }
        try (var rows = connection.createStatement().executeQuery("select plan from billing.subscriptions")) {
            while (rows.next()) {
                plans.add(rows.getString("plan"));
            }
        }
        connection.commit();
        Collections.sort(plans);
        return plans;
    }

    public static void main(String[] arguments) throws Exception {
        // A connection of each thread's own, and requests of both users on it: enough of them that the driver names its statements.
        var requests = new ArrayList<Callable<Integer>>();
        for (var thread = 0; thread < 8; thread++) {
            requests.add(() -> {
                try (var connection = connect()) {
                    for (var number = 0; number < 20; number++) {
                        var user = number % 2 == 0 ? ADA : BOB;
                        var plans = plans(connection, user);
                        if (!plans.equals(PLANS.get(user))) {
                            throw new AssertionError(user + " saw " + plans);
                        }
                    }
                }
                return 20;
            });
        }
        var threads = Executors.newFixedThreadPool(requests.size());
        var answered = 0;
        for (var result : threads.invokeAll(requests)) {
            answered += result.get();
        }
        threads.shutdown();
        System.out.println("ok " + answered + " requests of two users each saw their own rows");
    }
}
