import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Prints what a topic holds, read by Kafka's own client: {@code Dump BOOTSTRAP TOPIC SECONDS [ISOLATION]}.
 *
 * <p>Prints all that was there when it began, and waits, for the given time at most, until each transaction in it has been
 * decided. ISOLATION is read_committed if not given. A record is a line: partition, offset, timestamp, its type (CreateTime),
 * key, headers (NAME=VALUE, separated by commas) and value. Bytes are an x and hexadecimal digits; what is absent, and no
 * headers, is a minus. The last line is "end", and the number of the records. No inner classes: see the script.
 */
public final class Dump {
    private Dump() {}

    public static void main(String[] args) {
        if (args.length < 3 || args.length > 4) {
            System.err.println("Dump BOOTSTRAP TOPIC SECONDS [ISOLATION]");
            System.exit(2);
        }
        String topic = args[1];
        long deadline = System.nanoTime() + Duration.ofSeconds(Long.parseLong(args[2])).toNanos();
        StringBuilder out = new StringBuilder();
        long records = 0;
        // What was there when it began ends at the end of what is written, decided or not.
        Map<TopicPartition, Long> ends;
        try (KafkaConsumer<byte[], byte[]> all = consumer(args[0], "read_uncommitted")) {
            List<TopicPartition> partitions =
                    all.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
            ends = new HashMap<>(all.endOffsets(partitions));
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(args[0], args.length > 3 ? args[3] : "read_committed")) {
            consumer.assign(ends.keySet());
            consumer.seekToBeginning(ends.keySet());
            while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
                if (System.nanoTime() > deadline) {
                    System.err.println("Dump: not everything was decided in time: ends " + ends);
                    System.exit(1);
                }
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                    if (record.offset() < ends.get(new TopicPartition(topic, record.partition()))) {
                        line(out, record);
                        records++;
                    }
                }
                System.out.print(out);
                out.setLength(0);
            }
        }
        System.out.println("end " + records);
        if (System.out.checkError()) {
            System.exit(1);
        }
    }

    private static KafkaConsumer<byte[], byte[]> consumer(String bootstrap, String isolation) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("isolation.level", isolation);
        properties.put("enable.auto.commit", "false");
        properties.put("auto.offset.reset", "none");
        properties.put("default.api.timeout.ms", "60000");
        return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static void line(StringBuilder out, ConsumerRecord<byte[], byte[]> record) {
        out.append(record.partition()).append(' ').append(record.offset()).append(' ').append(record.timestamp());
        out.append(' ').append(record.timestampType()).append(' ').append(text(record.key())).append(' ');
        String separator = "";
        for (Header header : record.headers()) {
            out.append(separator).append(text(header.key().getBytes(StandardCharsets.UTF_8))).append('=');
            out.append(text(header.value()));
            separator = ",";
        }
        if (separator.isEmpty()) {
            out.append('-');
        }
        out.append(' ').append(text(record.value())).append('\n');
    }

    private static String text(byte[] bytes) {
        return bytes == null ? "-" : "x" + HexFormat.of().formatHex(bytes);
    }
}
