"""A client that knows Kafka and CloudEvents, and nothing of Aqueduct: `read` prints records, `write` writes them.

    interop.py read BROKERS TOPIC COUNT     one JSON object a line
    interop.py write BROKERS TOPIC          records, one JSON object a line on standard input
"""

import json
import sys
import uuid

from confluent_kafka import Consumer, KafkaException, Producer


def read(brokers, topic, count):
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": str(uuid.uuid4()), "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    while count > 0:
        message = consumer.poll(30)
        if message is None:
            sys.exit(f"{topic}: {count} records did not come")
        if message.error():
            raise KafkaException(message.error())
        headers = {name: value.decode() for name, value in message.headers() or []}
        print(
            json.dumps(
                {
                    "partition": message.partition(),
                    "key": message.key().decode(),
                    "headers": headers,
                    "data": json.loads(message.value()),
                }
            )
        )
        count -= 1
    consumer.close()


def write(brokers, topic):
    producer = Producer({"bootstrap.servers": brokers, "partitioner": "murmur2_random"})
    failed = []

    def told(error, _):
        if error is not None:
            failed.append(error)

    for line in sys.stdin:
        record = json.loads(line)
        producer.produce(
            topic,
            key=record["key"],
            value=json.dumps(record["data"]),
            headers=record["headers"],
            on_delivery=told,
        )
    if producer.flush(30) or failed:
        sys.exit(f"{topic}: not all records were stored: {failed}")


if __name__ == "__main__":
    _, what, *rest = sys.argv
    if what == "read":
        read(rest[0], rest[1], int(rest[2]))
    elif what == "write":
        write(rest[0], rest[1])
    else:
        sys.exit(__doc__)
