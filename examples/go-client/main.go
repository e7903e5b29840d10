// Command go-client asks a CoreRec cluster for recommendations and prints them as a table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	corerec "corerec.example/go-client/gen/corerec/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func main() {
	address := flag.String("address", "127.0.0.1:50051", "host:port of the gateway")
	user := flag.String("user", "", "id of the user; empty is an anonymous one")
	count := flag.Int("n", 10, "number of items, 1 to 100")
	timeout := flag.Duration("timeout", 2*time.Second, "deadline of the call")
	flag.Parse()

	if err := run(os.Stdout, *address, *user, int32(*count), *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "go-client:", explain(err))
		os.Exit(1)
	}
}

func run(out io.Writer, address, user string, count int32, timeout time.Duration) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()

	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	answer, err := corerec.NewRecommenderServiceClient(conn).Recommend(
		ctx, &corerec.RecommendRequest{UserId: user, PageSize: count})
	if err != nil {
		return err
	}
	return show(out, answer)
}

func show(out io.Writer, answer *corerec.RecommendResponse) error {
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "#\titem\ttitle\tcategory\tscore\tsource\twhat moved it")
	for place, item := range answer.Items {
		moved := ""
		for _, move := range item.Moves {
			moved += move.Rule + " "
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%.4f\t%s\t%s\n", place+1,
			item.ItemId, item.Title, item.Category, item.Score, source(item.Source), moved)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nrelease %s, %.1f ms, request %s\n",
		answer.Release, float64(answer.LatencyMicros)/1000, answer.RequestId)
	for _, missing := range answer.Degraded {
		fmt.Fprintf(out, "without %s: %s\n", missing.Stage, missing.Note)
	}
	return nil
}

func source(from corerec.CandidateSource) string {
	switch from {
	case corerec.CandidateSource_CANDIDATE_SOURCE_TWO_TOWER:
		return "two-tower"
	case corerec.CandidateSource_CANDIDATE_SOURCE_POPULAR:
		return "popular"
	case corerec.CandidateSource_CANDIDATE_SOURCE_PINNED:
		return "pinned"
	}
	return "unknown"
}

// explain gives an error from the cluster as its status code and what the cluster says about it.
func explain(err error) error {
	if answer, ok := status.FromError(err); ok {
		return errors.New(answer.Code().String() + ": " + answer.Message())
	}
	return err
}
