package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

const (
	degradedField = 6 // RecommendResponse.degraded
	connectWithin = 10 * time.Second
)

// call is what one call met; moments count from the start of the load.
type call struct {
	due, sent, done time.Duration
	code            codes.Code
	degraded        bool
}

// peer is what is called: connections that take turns, and the messages that are sent in turn.
type peer struct {
	connections []*grpc.ClientConn
	messages    [][]byte
	method      string
	timeout     time.Duration
	began       time.Time
}

// bytesCodec sends and receives messages as they are.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (bytesCodec) Name() string { return "proto" }

// dial returns the peer once all its connections are ready.
func dial(o options) (*peer, error) {
	target := &peer{method: o.method, timeout: o.timeout}
	ctx, cancel := context.WithTimeout(context.Background(), connectWithin)
	defer cancel()
	for range o.connections {
		connection, err := grpc.NewClient(o.address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
		if err != nil {
			return nil, err
		}
		target.connections = append(target.connections, connection)
		connection.Connect()
		for state := connection.GetState(); state != connectivity.Ready; state = connection.GetState() {
			if !connection.WaitForStateChange(ctx, state) {
				return nil, fmt.Errorf("%s: not connected within %s", o.address, connectWithin)
			}
		}
	}
	return target, nil
}

func (p *peer) close() {
	for _, connection := range p.connections {
		connection.Close()
	}
}

// send makes the i-th call and notes what it met.
func (p *peer) send(i int, c *call) {
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	defer cancel()
	var answer []byte
	c.sent = time.Since(p.began)
	err := p.connections[i%len(p.connections)].Invoke(ctx, p.method, &p.messages[i%len(p.messages)], &answer)
	c.done = time.Since(p.began)
	c.code = status.Code(err)
	c.degraded = err == nil && hasField(answer, degradedField)
}

// schedule returns when each call of an open loop is due.
func schedule(o options) ([]time.Duration, error) {
	random := rand.New(rand.NewPCG(o.seed, 0))
	var due []time.Duration
	for at := 0.0; ; {
		switch o.arrivals {
		case "constant":
			at = float64(len(due)) / o.rate
		case "poisson":
			at += random.ExpFloat64() / o.rate
		default:
			return nil, fmt.Errorf("-arrivals must be constant or poisson, got %q", o.arrivals)
		}
		if at >= o.seconds {
			return due, nil
		}
		due = append(due, time.Duration(at*float64(time.Second)))
	}
}

// openLoop sends every call when it is due, whatever became of those before.
func openLoop(p *peer, due []time.Duration) []call {
	calls := make([]call, len(due))
	var waiting sync.WaitGroup
	p.began = time.Now()
	for i := range calls {
		calls[i].due = due[i]
		time.Sleep(due[i] - time.Since(p.began))
		waiting.Go(func() { p.send(i, &calls[i]) })
	}
	waiting.Wait()
	return calls
}

// closedLoop lets each caller send its next call when its last one is answered.
func closedLoop(p *peer, o options) []call {
	made := make([][]call, o.callers)
	end := time.Duration(o.seconds * float64(time.Second))
	var waiting sync.WaitGroup
	p.began = time.Now()
	for caller := range o.callers {
		waiting.Go(func() {
			for i := caller; time.Since(p.began) < end; i += o.callers {
				var c call
				p.send(i, &c)
				c.due = c.sent
				made[caller] = append(made[caller], c)
			}
		})
	}
	waiting.Wait()
	var calls []call
	for _, own := range made {
		calls = append(calls, own...)
	}
	return calls
}

// hasField tells whether a message holds a field, from its tags alone.
func hasField(message []byte, number uint64) bool {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return false
		}
		if tag>>3 == number {
			return true
		}
		message = message[n:]
		size := 0
		switch tag & 7 {
		case 0:
			_, size = binary.Uvarint(message)
		case 1:
			size = 8
		case 2:
			length, n := binary.Uvarint(message)
			if n <= 0 || length > uint64(len(message)) {
				return false
			}
			size = n + int(length)
		case 5:
			size = 4
		}
		if size <= 0 || size > len(message) {
			return false
		}
		message = message[size:]
	}
	return false
}
