import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.ignite.Ignite;
import org.apache.ignite.Ignition;
import org.apache.ignite.cluster.ClusterState;
import org.apache.ignite.configuration.ClientConnectorConfiguration;
import org.apache.ignite.configuration.ConnectorConfiguration;
import org.apache.ignite.configuration.DataRegionConfiguration;
import org.apache.ignite.configuration.DataStorageConfiguration;
import org.apache.ignite.configuration.IgniteConfiguration;
import org.apache.ignite.spi.communication.tcp.TcpCommunicationSpi;
import org.apache.ignite.spi.discovery.tcp.TcpDiscoverySpi;
import org.apache.ignite.spi.discovery.tcp.ipfinder.vm.TcpDiscoveryVmIpFinder;
import org.apache.ignite.ssl.SslContextFactory;

/**
 * One member of a cluster on loopback. It has no caches: clients make them.
 *
 * Properties: member.name, member.dir, member.port (of clients), member.redis, member.talk (of the other members),
 * member.find and member.peers (where members meet: its own port, all of them); if it has member.password,
 * clients sign in (the first user is ignite, whose password is ignite) and data lies on disk; if it has
 * member.keys and member.trust, PKCS #12 files, clients speak TLS and show a certificate.
 */
public class IgniteMember {
    static final String LOCAL = "127.0.0.1";
    static final char[] STORE_PASSWORD = "changeit".toCharArray();

    public static void main(String[] args) throws Exception {
        boolean password = Boolean.getBoolean("member.password");
        List<String> peers = new ArrayList<>();
        for (String port : System.getProperty("member.peers").split(","))
            peers.add(LOCAL + ":" + port);

        TcpDiscoverySpi find = new TcpDiscoverySpi();
        find.setLocalAddress(LOCAL).setLocalPort(Integer.getInteger("member.find")).setLocalPortRange(0);
        find.setIpFinder(new TcpDiscoveryVmIpFinder().setAddresses(peers));
        TcpCommunicationSpi talk = new TcpCommunicationSpi();
        talk.setLocalAddress(LOCAL).setLocalPort(Integer.getInteger("member.talk")).setLocalPortRange(0);

        DataRegionConfiguration region = new DataRegionConfiguration().setName("default")
            .setInitialSize(16L << 20).setMaxSize(96L << 20).setPersistenceEnabled(password);
        Ignite ignite = Ignition.start(new IgniteConfiguration()
            .setIgniteInstanceName(System.getProperty("member.name"))
            .setConsistentId(System.getProperty("member.name"))
            .setLocalHost(LOCAL)
            .setWorkDirectory(System.getProperty("member.dir"))
            .setDiscoverySpi(find)
            .setCommunicationSpi(talk)
            .setDataStorageConfiguration(new DataStorageConfiguration().setDefaultDataRegionConfiguration(region))
            .setAuthenticationEnabled(password)
            .setFailureDetectionTimeout(3000)
            .setMetricsLogFrequency(0)
            .setPublicThreadPoolSize(2)
            .setSystemThreadPoolSize(4)
            .setConnectorConfiguration(new ConnectorConfiguration()
                .setHost(LOCAL).setPort(Integer.getInteger("member.redis")).setPortRange(0).setThreadPoolSize(2).setSelectorCount(1))
            .setClientConnectorConfiguration(clients()));
        if (password)
            ignite.cluster().state(ClusterState.ACTIVE);
        Files.writeString(Path.of(System.getProperty("member.dir"), "ready"), "");
    }

    static ClientConnectorConfiguration clients() {
        ClientConnectorConfiguration c = new ClientConnectorConfiguration()
            .setHost(LOCAL).setPort(Integer.getInteger("member.port")).setPortRange(0).setThreadPoolSize(4);
        String keys = System.getProperty("member.keys");
        if (keys == null)
            return c;
        SslContextFactory tls = new SslContextFactory();
        tls.setKeyStoreFilePath(keys);
        tls.setKeyStoreType("PKCS12");
        tls.setKeyStorePassword(STORE_PASSWORD);
        tls.setTrustStoreFilePath(System.getProperty("member.trust"));
        tls.setTrustStoreType("PKCS12");
        tls.setTrustStorePassword(STORE_PASSWORD);
        return c.setSslEnabled(true).setSslClientAuth(true).setUseIgniteSslContextFactory(false).setSslContextFactory(tls);
    }
}
