// Command loadgen calls Recommend and writes what every call met, as JSON columns on stdout.
//
// Open loop (-rate): calls leave on a schedule that is drawn beforehand and waits for no answer.
// Each call keeps the moment at which it was due beside the one at which it was sent, so that a
// generator or a server that falls behind cannot hide it. Closed loop (-callers): each caller sends
// its next call when the last one is answered; a call is due when it is sent.
//
// Messages are not decoded: requests are bytes, and of an answer only the tags are read.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"
)

type options struct {
	address, requests, method, arrivals string
	rate, seconds                       float64
	callers, connections, first         int
	seed                                uint64
	timeout                             time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.address, "address", "", "host:port of the gateway")
	flag.StringVar(&o.method, "method", "/corerec.v1.RecommenderService/Recommend", "what is called")
	flag.StringVar(&o.requests, "requests", "", "file of messages, each behind its length (uint32, little-endian)")
	flag.IntVar(&o.first, "first", 0, "place of the message that is sent first; after the last comes place 0")
	flag.Float64Var(&o.rate, "rate", 0, "open loop: calls a second")
	flag.StringVar(&o.arrivals, "arrivals", "constant", "open loop: constant or poisson")
	flag.Uint64Var(&o.seed, "seed", 7, "of Poisson arrivals")
	flag.IntVar(&o.callers, "callers", 0, "closed loop: callers, each waiting for its answer")
	flag.Float64Var(&o.seconds, "seconds", 5, "how long calls are sent; all answers are waited for")
	flag.IntVar(&o.connections, "connections", 4, "HTTP/2 connections, used in turn")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Second, "deadline of each call")
	flag.Parse()
	// Loads are short: collecting what they leave costs more than keeping it.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(1 << 30)
	if err := run(o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func run(o options, out io.Writer) error {
	if (o.rate > 0) == (o.callers > 0) {
		return errors.New("exactly one of -rate and -callers must be above 0")
	}
	messages, err := read(o.requests)
	if err != nil {
		return err
	}
	first := o.first % len(messages)
	target, err := connect(o, append(messages[first:len(messages):len(messages)], messages[:first]...))
	if err != nil {
		return err
	}
	defer target.close()
	if o.callers > 0 {
		err = closedLoop(target, o)
	} else {
		var due []time.Duration
		if due, err = schedule(o); err == nil {
			err = openLoop(target, due)
		}
	}
	if err != nil {
		return err
	}
	return write(out, target.calls)
}

// read returns the messages of a file.
func read(path string) ([][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	in := bufio.NewReader(file)
	var messages [][]byte
	for {
		var size uint32
		if err := binary.Read(in, binary.LittleEndian, &size); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s: message %d: %w", path, len(messages), err)
		}
		message := make([]byte, size)
		if _, err := io.ReadFull(in, message); err != nil {
			return nil, fmt.Errorf("%s: message %d of %d bytes: %w", path, len(messages), size, err)
		}
		messages = append(messages, message)
	}
	if len(messages) == 0 {
		return nil, fmt.Errorf("%s: holds no message", path)
	}
	return messages, nil
}

// write puts the calls out by column: microseconds since the start, status codes, what was missing.
func write(out io.Writer, calls []*call) error {
	columns := struct {
		Due      []int64  `json:"due_micros"`
		Sent     []int64  `json:"sent_micros"`
		Done     []int64  `json:"done_micros"`
		Code     []string `json:"code"`
		Degraded []bool   `json:"degraded"`
	}{}
	for _, c := range calls {
		columns.Due = append(columns.Due, c.due.Microseconds())
		columns.Sent = append(columns.Sent, c.sent.Microseconds())
		columns.Done = append(columns.Done, c.done.Microseconds())
		columns.Code = append(columns.Code, c.code.String())
		columns.Degraded = append(columns.Degraded, c.degraded)
	}
	return json.NewEncoder(out).Encode(columns)
}
